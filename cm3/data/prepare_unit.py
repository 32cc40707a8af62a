"""One unit of a source -> one shard of a store: the same bytes in any process of any machine.

    read -> decode, preprocess (a thread ahead) -> encode, 64 documents at a time -> vectors -> shard, then report

Each picture is decoded once. Pictures go through the image tokenizer in the same batches however the work is divided,
because a network may round differently in another batch; a batch never reaches across units.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch

from cm3.document import Document, Image, Part, Text, Unreadable
from cm3.errors import DataError
from cm3.read.base import Reader, Unit
from cm3.read.find import open_reader
from cm3.retrieval.embed import embed, load_encoder
from cm3.sequence.truncate import cut_texts
from cm3.store.manifest import PLAN, page
from cm3.store.record import Picture, Record, Refused, check, digest, record_of
from cm3.store.shard import Batch, Shape, Skip, write_shard
from cm3.tokens.image import ImageTokenizer
from cm3.tokens.on_disk import Tokenizers, load_tokenizers
from cm3.vocab import Tokens

TOGETHER = 64
"""Documents that are encoded together, at most,"""
PIXELS = 1 << 26
"""and pixels of their pictures, as they are before preprocessing, after which no more are added."""
_NOTHING = "its first character has more than {most} tokens, so nothing is left of it; give a larger --max-text"


@dataclass(frozen=True)
class Work:
    """All that a process needs to prepare units of a plan: plain values, that travel to other processes and
    machines."""

    out: str
    model: str | None
    """Folder of the tokenizers; None for a store without tokens."""
    text: str | None
    masks: int
    encoder: str | None
    device: str
    pictures: bool = False
    """Whether pictures are kept."""

    def open(self) -> Desk:
        """Open the tokenizers, the encoder and the sources."""
        return Desk(self)


class Ready(NamedTuple):
    """A document to be encoded: with preprocessed pictures; as it was read (for vectors); as it is stored."""

    document: Document
    whole: Document
    record: Record


class Desk:
    """Tokenizers, encoder and readers, opened once by each process."""

    def __init__(self, work: Work) -> None:
        """Raise what the tokenizers, the encoder and the sources raise."""
        self.work, self.out = work, Path(work.out)
        self.plan = page(self.out / PLAN)
        self.tokenizers: Tokenizers | None = None
        if work.model is not None:
            self.tokenizers = load_tokenizers(work.model, text=work.text, masks=work.masks, device=work.device)
            self.codec = self.tokenizers.codec
            assert self.codec.image is not None  # load_tokenizers gives both
            self.codec.image = self.image = OnceEach(self.codec.image)
        self.encoder = None if work.encoder is None else load_encoder(work.encoder, device=work.device)
        self.readers: dict[int, Reader] = {}

    @property
    def shape(self) -> Shape:
        """Return the parts that are kept of every document."""
        entries = None if self.tokenizers is None else self.codec.vocab.size
        width = None if self.encoder is None else self.encoder.width
        return Shape(entries, width, self.work.pictures or width is not None, self.work.pictures)

    def prepare(self, number: int, tick: Callable[[int], object] = int) -> dict[str, Any]:
        """Make the shard of a unit of the plan and its report, which is also given back; see `prepare_unit`."""
        return prepare_unit(self, number, tick)

    def reader(self, number: int) -> tuple[Reader, Unit]:
        """Return the reader of a unit of the plan, and the unit as that calls it."""
        source, *unit = self.plan["units"][number]
        if source not in self.readers:
            self.readers[source] = open_reader(self.plan["sources"][source])
        return self.readers[source], Unit(*unit)


class OnceEach(ImageTokenizer):
    """An image tokenizer that encodes a picture once where one call has it several times, as its captions do."""

    def __init__(self, image: ImageTokenizer) -> None:
        super().__init__(image.vqgan, image.size, fit=image.fit, batch=image.batch)

    def encode(self, images: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Return codes int32 (n, rows, cols)."""
        different = {id(picture): picture for picture in images}
        codes = dict(zip(different, super().encode(list(different.values())), strict=True))
        return np.stack([codes[id(picture)] for picture in images])


def prepare_unit(desk: Desk, number: int, tick: Callable[[int], object] = int) -> dict[str, Any]:
    """Write the shard of unit `number` and after it the report, which says that the unit is done; returns the report.

    `tick` is called with the documents done so far. Raises `DiskError` where there is no room left on the disk, and
    what the reader raises for a source that cannot be read on.
    """
    batch, (reader, unit) = Batch(), desk.reader(number)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums come out in other bits on another number of threads
    try:
        with ThreadPoolExecutor(1) as pool:
            chunks = _chunks(reader.read(unit), desk)
            ahead = pool.submit(next, chunks, None)
            while (chunk := ahead.result()) is not None:
                ahead = pool.submit(next, chunks, None)
                _encode(desk, chunk, batch)
                tick(len(batch.records) + len(batch.skipped))
    finally:
        torch.set_num_threads(threads)
    return write_shard(desk.out, number, batch, desk.shape, reader.passed_in(unit).json())


def _encode(desk: Desk, chunk: list[Ready | Skip], batch: Batch) -> None:
    ready = [item for item in chunk if isinstance(item, Ready)]
    coded: Iterator[Tokens | None] = iter([None] * len(ready))
    if desk.tokenizers is not None:
        coded = iter(desk.codec.encode_many(item.document for item in ready))
    kept: list[Document] = []
    for item in chunk:
        if isinstance(item, Skip):
            batch.skip(*item[:3])
        else:
            if (tokens := next(coded)) is not None:
                vocab = desk.codec.vocab
                cut = cut_texts(tokens, desk.plan["max_text"], vocab, desk.codec.text.decode_bytes)
                if cut.length == 2 < tokens.length:
                    batch.skip(item.document.id, "text", _NOTHING.format(most=desk.plan["max_text"]))
                    continue
                batch.truncated += cut is not tokens
                batch.tokens.append(cut.ids)
                batch.images.append(int(vocab.is_image(cut.ids).sum()))
            batch.records.append(item.record)
            kept.append(item.whole)
    if desk.encoder is not None and kept:
        vectors = embed(desk.encoder, kept)
        batch.text.append(vectors.texts.astype(np.float16))
        batch.image.append(vectors.images.astype(np.float16))


def _chunks(documents: Iterable[Document | Unreadable], desk: Desk) -> Iterator[list[Ready | Skip]]:
    """Decode the pictures of documents, in pieces that are encoded together."""
    chunk: list[Ready | Skip] = []
    seen: dict[bytes, tuple[Picture, PIL.Image.Image, PIL.Image.Image]] = {}
    pixels = 0
    for found in documents:
        if isinstance(found, Document):
            pixels += sum(i.pixels.width * i.pixels.height for i in found.images)
            try:
                chunk.append(_ready(found, desk, seen))
            except Refused as error:
                chunk.append(Skip(found.id, error.kind, str(error)))
        else:
            chunk.append(Skip(found.id, "unreadable", found.reason))
        if len(chunk) == TOGETHER or pixels >= PIXELS:
            yield chunk
            chunk, seen, pixels = [], {}, 0
    if chunk:
        yield chunk


def _ready(
    document: Document, desk: Desk, seen: dict[bytes, tuple[Picture, PIL.Image.Image, PIL.Image.Image]]
) -> Ready:
    """Return a document to be encoded. Raises `Refused` for one that is not kept."""
    meta = dict(document.meta)
    if desk.plan["license"] is not None:
        meta.setdefault("license", desk.plan["license"])
    check(document)
    parts: list[Part] = []
    whole: list[Part] = []
    stored: list[str | Picture] = []
    try:
        for is_text, group in itertools.groupby(document.parts, lambda part: isinstance(part, Text)):
            if is_text:
                texts = [part.text for part in group if isinstance(part, Text)]
                words = "".join(texts)
                stored += texts
                parts += [Text(words)] if words.strip() else []
                whole += [Text(words)] if words.strip() else []
                continue
            for part in group:
                assert isinstance(part, Image)
                picture, original, small = _picture(part, desk, seen)
                stored.append(picture)
                parts.append(Image(small))
                whole.append(Image(original))
    except DataError as error:
        raise Refused("picture", str(error)) from error
    replace = dataclasses.replace
    record = Record(document.id, document.source, meta, tuple(stored))
    return Ready(replace(document, parts=tuple(parts)), replace(document, parts=tuple(whole)), record)


def _picture(
    image: Image, desk: Desk, seen: dict[bytes, tuple[Picture, PIL.Image.Image, PIL.Image.Image]]
) -> tuple[Picture, PIL.Image.Image, PIL.Image.Image]:
    """Return a picture as it is stored, as it was read, and preprocessed; the same for the same file, with many
    captions."""
    if image.data is not None and image.digest in seen:
        return seen[image.digest]
    small: PIL.Image.Image | None = None
    if desk.tokenizers is not None:
        # Within 40 dB of `preprocess`, at a part of its price where the file is a large JPEG.
        small = image.square(desk.image.size, desk.image.fit)
    if desk.shape.words:
        record, read = record_of(Document((image,)))
        (picture,), original = record.pictures, read.images[0].pixels
        picture = picture if desk.work.pictures else picture._replace(data=b"")
    else:  # no more of it is decoded than the image tokenizer sees
        assert small is not None
        picture, original = Picture(b"", digest(image), b""), small
    # Vectors need the picture itself; without an encoder it, which may be large, is let go.
    found = picture, original if desk.encoder is not None or small is None else small, small or original
    if image.data is not None:
        seen[image.digest] = found
    return found
