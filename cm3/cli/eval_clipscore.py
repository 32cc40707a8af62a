"""`cm3 eval clipscore`: how well pictures and their captions fit."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import HERE, Device, Verb, at_least, own_encoder, progress
from cm3.cli.results import check_result_file, keep, lines
from cm3.errors import DataError

if TYPE_CHECKING:
    from cm3.document import Image
    from cm3.read.base import Reader


@dataclass(frozen=True, kw_only=True)
class EvalClipscore(Verb):
    """Measure how well pictures and their captions fit: CLIPScore, and the plain cosine of CLIP's vectors.

    Either side may be the predictions: pictures drawn from captions, or captions written of pictures. They come as a
    dataset, [KIND:]PATH[@SPLIT]: pictures beside a .jsonl of {"image": "a.png", "caption": "a red circle"}, pictures
    with .txt files, COCO's layout and the others that cm3 reads. Nothing is left out: a document that is no picture
    with a caption is an error.

    examples:
      cm3 eval clipscore drawn/ --encoder models/clip-vit-base-patch32
      cm3 eval clipscore coco:data/coco@val2017 --encoder models/clip-vit-base-patch32 --n 1000 --json
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Pictures with captions: [KIND:]PATH[@SPLIT]."""
    encoder: Annotated[str, arg(metavar="ENCODER")]
    """The CLIP: a folder, or a hub id such as openai/clip-vit-base-patch32. Its name is in the result."""
    n: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """At most this many pairs, spread evenly."""
    batch: Annotated[int, arg(metavar="N")] = 32
    """Pairs that go through the network together."""
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the result here, JSON."""
    place: Annotated[Device, HERE] = Device()

    def run(self) -> dict[str, Any]:
        """Measure, print the figures."""
        from cm3.read.find import open_reader
        from cm3.retrieval.embed import load_encoder
        from cm3.score.clipscore import score_clip

        at_least(1, batch=self.batch, n=1 if self.n is None else self.n)
        began, pairs = time.perf_counter(), hashlib.sha256()
        check_result_file(self.out)
        reader = open_reader(self.source)
        encoder = load_encoder(own_encoder(self.encoder), device=self.place.device)
        total = reader.count if self.n is None or reader.count is None else min(self.n, reader.count)
        with progress("pairs", unit="pair") as update:
            result = score_clip(
                self._pairs(reader, pairs), encoder, batch=self.batch, progress=lambda n: update(n, total or n)
            )
        # Either side may be the predictions, so both count as them.
        place = Path(self.source) if Path(self.source).exists() else pairs.hexdigest()
        page = keep(self.out, result, "clipscore", 1, {}, {"pairs": place}, began)
        print("\n".join(lines(page)))
        return page

    def _pairs(self, reader: Reader, whole: hashlib._Hash) -> Iterator[tuple[str, Image, str]]:
        """Yield the pairs, and add each to a sum of all."""
        from cm3.document import Unreadable

        for document in reader if self.n is None else reader.spread(self.n):
            if isinstance(document, Unreadable):
                raise DataError(f"document {document.id!r}: {document.reason}")
            if len(document.images) != 1 or not document.text.strip():
                raise DataError(
                    f"document {document.id!r}: has {len(document.images)} pictures and "
                    f"{'a' if document.text.strip() else 'no'} caption; give one picture with a caption each"
                )
            image = document.images[0]
            told = f"{document.id}\0{image.digest.hex()}\0{document.text}\n"
            whole.update(told.encode("utf-8", "backslashreplace"))
            yield document.id, image, document.text
