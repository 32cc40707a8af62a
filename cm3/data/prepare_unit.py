"""One unit of a source -> one shard of a token store: the same bytes in any process of any machine.

    read -> decode, preprocess (a thread ahead) -> encode, 64 documents at a time -> vectors -> shard, then report

Pictures go through the image tokenizer in the same batches however the work is divided, because a network may round
differently in another batch; a batch never reaches across units.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch

from cm3.data import shard
from cm3.data.store import page, shard_name
from cm3.document import Document, Image, Part, Text, Unreadable, check_text
from cm3.errors import DataError
from cm3.files import checksum, write
from cm3.read.base import Reader, Unit
from cm3.read.find import open_reader
from cm3.retrieval.embed import embed, load_encoder
from cm3.sequence.truncate import cut_texts
from cm3.tokens.image import ImageTokenizer
from cm3.tokens.load import load_tokenizers

TOGETHER = 64
"""Documents that are encoded together, at most,"""
PIXELS = 1 << 26
"""and pixels of their pictures, as they are before preprocessing, after which no more are added."""
_NOTHING = "its first character has more than {most} tokens, so nothing is left of it; give a larger --max-text"


@dataclass(frozen=True)
class Work:
    """What a process needs to prepare units of a plan: plain values, that travel to other processes and machines."""

    out: str
    model: str
    """Folder of the tokenizers."""
    text: str | None
    masks: int
    encoder: str | None
    device: str


class Skip(NamedTuple):
    """A document that is left out: what kind of problem it has, and which."""

    id: str
    kind: str
    reason: str


class Ready(NamedTuple):
    """A document to be encoded: with preprocessed pictures; as it was read (for vectors); its name in the shard."""

    document: Document
    whole: Document
    name: dict[str, Any]


class Desk:
    """Tokenizers, encoder and readers, opened once by each process."""

    def __init__(self, work: Work) -> None:
        """Raises what the tokenizers, the encoder and the sources raise."""
        self.work, self.out = work, Path(work.out)
        self.plan = page(self.out / "plan.json")
        self.tokenizers = load_tokenizers(work.model, text=work.text, masks=work.masks, device=work.device)
        self.codec = self.tokenizers.codec
        assert self.codec.image is not None  # load_tokenizers gives both
        self.codec.image = self.image = OnceEach(self.codec.image)
        self.encoder = None if work.encoder is None else load_encoder(work.encoder, device=work.device)
        self.readers: dict[int, Reader] = {}

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
        """Codes int32 (n, rows, cols)."""
        different = {id(picture): picture for picture in images}
        codes = dict(zip(different, super().encode(list(different.values())), strict=True))
        return np.stack([codes[id(picture)] for picture in images])


@dataclass
class Tally:
    """What becomes of a unit."""

    ids: list[np.ndarray] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    names: list[dict[str, Any]] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    truncated: int = 0


def prepare_unit(desk: Desk, number: int, tick: Callable[[int], object] = int) -> dict[str, Any]:
    """Write the shard of unit `number` and after it the report, which says that the unit is done; returns the report.

    `tick` is called with the documents done so far. Raises `DiskError` where there is no room left on the disk, and
    what the reader raises for a source that cannot be read on.
    """
    tally, (reader, unit) = Tally(), desk.reader(number)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums come out in other bits on another number of threads
    try:
        with ThreadPoolExecutor(1) as pool:
            chunks = _chunks(reader.read(unit), desk)
            ahead = pool.submit(next, chunks, None)
            while (chunk := ahead.result()) is not None:
                ahead = pool.submit(next, chunks, None)
                _encode(desk, chunk, tally)
                tick(len(tally.ids) + len(tally.skipped))
    finally:
        torch.set_num_threads(threads)
    vectors = None
    if desk.encoder is not None:
        vectors = np.concatenate([np.zeros((0, desk.encoder.width), np.float32), *tally.vectors])
    data = shard.pack(tally.ids, tally.images, tally.names, vectors, desk.codec.vocab.size)
    path = desk.out / shard_name(number)
    report: dict[str, Any] = shard.facts(data) | {
        "documents": len(tally.ids),
        "tokens": sum(map(len, tally.ids)),
        "image_tokens": sum(tally.images),
        "truncated": tally.truncated,
        "sources": dict(Counter(n["source"] for n in tally.names)),
        "licenses": dict(Counter(str(n["meta"].get("license") or "") for n in tally.names)),
        "skipped": [s._asdict() for s in tally.skipped],
        "passed": reader.passed_in(unit).json(),
    }
    report["check"] = checksum(report, "check")
    write(path, data)
    write(path.with_suffix(".json"), shard.page_bytes(report))
    return report


def _encode(desk: Desk, chunk: list[Ready | Skip], tally: Tally) -> None:
    ready = [item for item in chunk if isinstance(item, Ready)]
    tally.skipped += [item for item in chunk if isinstance(item, Skip)]
    if not ready:
        return
    vocab, kept = desk.codec.vocab, list[Document]()
    for item, tokens in zip(ready, desk.codec.encode_many(item.document for item in ready), strict=True):
        cut = cut_texts(tokens, desk.plan["max_text"], vocab, desk.codec.text.decode_bytes)
        if cut.length == 2 < tokens.length:
            tally.skipped.append(Skip(item.document.id, "text", _NOTHING.format(most=desk.plan["max_text"])))
            continue
        tally.truncated += cut is not tokens
        tally.ids.append(cut.ids)
        tally.images.append(int(vocab.is_image(cut.ids).sum()))
        tally.names.append(item.name)
        kept.append(item.whole)
    if desk.encoder is not None and kept:
        tally.vectors.append(embed(desk.encoder, kept).vectors)


def _chunks(documents: Iterable[Document | Unreadable], desk: Desk) -> Iterator[list[Ready | Skip]]:
    """Documents with their pictures decoded, in pieces that are encoded together."""
    chunk: list[Ready | Skip] = []
    seen: dict[bytes, tuple[PIL.Image.Image, PIL.Image.Image]] = {}
    pixels = 0
    for found in documents:
        if isinstance(found, Document):
            pixels += sum(i.pixels.width * i.pixels.height for i in found.images)
            chunk.append(_ready(found, desk, seen))
        else:
            chunk.append(Skip(found.id, "unreadable", found.reason))
        if len(chunk) == TOGETHER or pixels >= PIXELS:
            yield chunk
            chunk, seen, pixels = [], {}, 0
    if chunk:
        yield chunk


def _ready(document: Document, desk: Desk, seen: dict[bytes, tuple[PIL.Image.Image, PIL.Image.Image]]) -> Ready | Skip:
    meta = dict(document.meta)
    if desk.plan["license"] is not None:
        meta.setdefault("license", desk.plan["license"])
    if document.has_gap:
        return Skip(document.id, "hole", "has a hole to be filled; a store holds whole documents")
    if not document.text.strip() and not document.images:
        return Skip(document.id, "empty", "has neither words nor picture")
    try:
        check_text(document.text)
        check_text(document.id, "its id")
        check_text(document.source, "its source")
    except DataError as error:
        return Skip(document.id, "text", str(error))
    try:
        json.dumps(meta, allow_nan=False)
    except (TypeError, ValueError) as error:
        return Skip(document.id, "meta", f"its meta is not plain JSON ({error})")
    parts: list[Part] = []
    whole: list[Part] = []
    try:
        for is_text, group in itertools.groupby(document.parts, lambda part: isinstance(part, Text)):
            if is_text:
                words = "".join(part.text for part in group if isinstance(part, Text))
                parts += [Text(words)] if words.strip() else []
                whole += [Text(words)] if words.strip() else []
                continue
            for part in group:
                assert isinstance(part, Image)
                original, small = _picture(part, desk, seen)
                parts.append(Image(small))
                whole.append(Image(original))
    except DataError as error:
        return Skip(document.id, "picture", str(error))
    name = {"id": document.id, "source": document.source, "meta": meta}
    replace = dataclasses.replace
    return Ready(replace(document, parts=tuple(parts)), replace(document, parts=tuple(whole)), name)


def _picture(
    image: Image, desk: Desk, seen: dict[bytes, tuple[PIL.Image.Image, PIL.Image.Image]]
) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """A picture as it was read, and preprocessed; the same objects for the same file, which has many captions."""
    if image.data is not None and image.digest in seen:
        return seen[image.digest]
    # Within 40 dB of `preprocess`, at a part of its price where the file is a large JPEG.
    small = image.square(desk.image.size, desk.image.fit)
    # Vectors need the picture itself; without an encoder it, which may be large, is let go.
    pair = (image.pixels if desk.encoder is not None else small), small
    if image.data is not None:
        seen[image.digest] = pair
    return pair
