"""CLIPScore (Hessel et al. 2021, arXiv:2104.08718): how well captions and pictures fit, without a reference.

    CLIPScore = 2.5 max(cos(text vector of "A photo depicts " + caption, picture vector), 0)

The plain cosine, of the caption as it is and without a bound, stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from cm3.document import Image
from cm3.errors import Cm3Error, DataError, whole_number
from cm3.picture import rgb
from cm3.retrieval.clip import ClipEncoder
from cm3.retrieval.embed import Encoder
from cm3.score.result import Result

WEIGHT = 2.5
PREFIX = "A photo depicts "
BATCH = 32

Pairs = Iterable[tuple[str, Image, str]]
"""(id, picture, caption)"""


def score_clip(
    pairs: Pairs, encoder: Encoder, *, batch: int = BATCH, progress: Callable[[int], None] | None = None
) -> Result:
    """Return `clipscore` and `cosine`, the means over pairs; `items` has both of each pair.

    A picture that comes with several captions one after the other is encoded once. Raises `DataError` for no pair, an
    id that comes twice, an empty caption, and a picture that cannot be read, by its id.
    """
    whole_number("batch", batch)
    scores: dict[str, float] = {}
    cosines: dict[str, float] = {}
    known: dict[bytes, np.ndarray] = {}
    cut = 0
    waiting: list[tuple[str, bytes, str]] = []
    fresh: dict[bytes, Image] = {}

    def take() -> None:
        nonlocal known, cut
        found = encoder.images([image.pixels for image in fresh.values()])
        known |= dict(zip(fresh, found, strict=True))
        captions = [caption for _, _, caption in waiting]
        shown = np.stack([known[digest] for _, digest, _ in waiting])
        said = encoder.texts([PREFIX + caption for caption in captions])
        plain = encoder.texts(captions)
        cut += _cut(encoder, [PREFIX + caption for caption in captions])
        for (id, _, _), a, b in zip(waiting, (said * shown).sum(1), (plain * shown).sum(1), strict=True):
            scores[id], cosines[id] = WEIGHT * max(float(a), 0.0), float(b)
        last = waiting[-1][1]
        known = {last: known[last]}
        waiting.clear()
        fresh.clear()
        if progress is not None:
            progress(len(scores))

    ids = set[str]()
    for id, image, caption in pairs:
        if id in ids:
            raise DataError(f"pair {id!r}: comes twice; give each an id of its own")
        if not caption.strip():
            raise DataError(f"pair {id!r}: has an empty caption; leave it out or mend it")
        ids.add(id)
        try:
            rgb(image.pixels)
            digest = image.digest
        except Cm3Error as error:
            raise DataError(f"pair {id!r}: {error}") from error
        if digest not in known:
            fresh[digest] = image
        waiting.append((id, digest, caption))
        if len(waiting) == batch:
            take()
    if waiting:
        take()
    if not scores:
        raise DataError("no pair of a picture and a caption to score; give at least one")
    warnings = [f"{cut} of {len(scores)} captions are longer than the encoder reads, and were cut off"] if cut else []
    figures = {"clipscore": float(np.mean([*scores.values()])), "cosine": float(np.mean([*cosines.values()]))}
    settings = {"encoder": encoder.name, "weight": WEIGHT, "prefix": PREFIX}
    return Result(figures, len(scores), settings, tuple(warnings), {"clipscore": scores, "cosine": cosines})


def _cut(encoder: Encoder, texts: list[str]) -> int:
    """Return how many texts a CLIP cuts off; 0 for an encoder that does not say it."""
    if not isinstance(encoder, ClipEncoder):
        return 0
    return sum(len(ids) > encoder.length for ids in encoder.tokenizer(texts, verbose=False)["input_ids"])
