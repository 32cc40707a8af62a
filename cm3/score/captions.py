"""Captions made anywhere against those that people wrote: the figures of COCO's caption challenge, without Java.

    predictions   captions_*_results.json   [{"image_id": 404464, "caption": "a man"}, ...]
                  *.jsonl                   {"image_id": "404464", "caption": "a man"}, one a line
    references    captions_val2014.json     {"images": [{"id": 404464}, ...], "annotations": [{"image_id", "caption"}]}
                  *.jsonl                   as above, a line for each caption

Ids are compared as text. Pictures are scored in the order of the references' file, as the reference scorer does, for a
word can depend on the caption after it (`cm3.score.ptb`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cm3.errors import DataError
from cm3.score.bleu import bleu
from cm3.score.cider import ciders
from cm3.score.meteor import meteor
from cm3.score.ngrams import Pairs
from cm3.score.ptb import BREAKS, Words, tokenize
from cm3.score.records import agreed, identity, listed, load
from cm3.score.result import Result
from cm3.score.rouge import rouge_l
from cm3.score.spice import spice


def score_captions(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    meteor_folder: Path | None = None,
    spice_folder: Path | None = None,
) -> Result:
    """Score captions by id of their picture.

    Figures are in the reference scorer's units: CIDEr-D (the CIDEr of COCO's tables) and plain CIDEr 0..10, BLEU-1 to
    BLEU-4, ROUGE-L, METEOR and SPICE 0..1, the last two where their folders are given. Only pictures with a prediction
    are scored, and the idf of CIDEr is of their references; those without one are counted in a warning. Raises
    `DataError` for predictions of no picture of the references, for pictures without a reference, and for fewer than
    two pictures.
    """
    agreed(predictions, references, "captions", "predictions", "pictures")
    ids = [id for id in references if id in predictions]
    if bare := [id for id in ids if not references[id]]:
        raise DataError(
            f"captions: {len(bare)} pictures have a prediction and no reference, the first {bare[0]!r:.40}; give one "
            "or leave them out"
        )
    given, theirs = [predictions[id] for id in ids], [text for id in ids for text in references[id]]
    known: dict[str, Words | None] = {}
    read = iter(tokenize(theirs, known))
    texts = tokenize(given, known)
    counts = [len(references[id]) for id in ids]
    whole = Pairs(texts, [[next(read) for _ in range(count)] for count in counts])
    parted = Pairs([_parted(words) for words in texts], [[_parted(w) for w in some] for some in whole.references])
    clipped, plain = ciders(parted)
    items = {"CIDEr-D": clipped.tolist(), "CIDEr": plain.tolist(), "ROUGE-L": rouge_l(whole)}
    figures = {f"BLEU-{number}": figure for number, figure in enumerate(bleu(parted), 1)}
    warnings = _warnings(ids, references, whole, [*given, *theirs])
    if meteor_folder is None:
        warnings.append("METEOR is not computed: it needs Java and the folder of its program")
    else:
        figures["METEOR"] = meteor(whole, meteor_folder)
    if spice_folder is None:
        warnings.append("SPICE is not computed: it needs Java and the folder of its program")
    else:
        items["SPICE"] = spice(whole, spice_folder)
    return Result(
        figures={**{name: float(np.mean(values)) for name, values in items.items()}, **figures},
        n=len(ids),
        settings={
            "tokenizer": "PTBTokenizer 3.4.1, lower case, without signs",
            "idf": "references of the pictures scored",
        },
        warnings=tuple(warnings),
        items={name: dict(zip(ids, values, strict=True)) for name, values in items.items()},
    )


def _parted(words: Words) -> Words:
    """Split words at the no-break spaces that a few tokens have, as the reference scorers of n-grams do."""
    return words if "".join(words).isascii() else tuple(" ".join(words).split())


def _warnings(ids: list[str], references: Mapping[str, Any], pairs: Pairs, texts: Sequence[str]) -> list[str]:
    """Return a line on each thing that is odd and no error."""
    warnings = []
    scored = set(ids)
    if missing := [id for id in references if id not in scored]:
        warnings.append(
            f"{len(missing)} of {len(references)} pictures have no prediction, the first {missing[0]!r:.40}; the "
            f"figures are of the other {len(ids)}"
        )
    if empty := [id for id, words in zip(ids, pairs.given, strict=True) if not words]:
        warnings.append(
            f"{len(empty)} predictions have no words, the first {empty[0]!r:.40}; they count, and score nothing"
        )
    if empty := [id for id, some in zip(ids, pairs.references, strict=True) if not all(some)]:
        warnings.append(f"{len(empty)} pictures have a reference without words, the first {empty[0]!r:.40}")
    if broken := sum(not text.isprintable() and any(sign in text for sign in BREAKS[1:]) for text in texts):
        warnings.append(
            f"{broken} captions have a separator of lines other than \\n; it counts as a space, where the reference "
            "scorer takes the wrong words from there on"
        )
    return warnings


def read_predictions(path: Path) -> dict[str, str]:
    """Return id of a picture -> caption. Raises `DataError` for a file that is not laid out so, and for an id twice."""
    pairs = list(_captions(path)[1])
    twice = [id for id, n in Counter(id for id, _ in pairs).items() if n > 1]
    if twice:
        raise DataError(
            f"{str(path)!r}: {len(twice)} pictures have several captions, the first {twice[0]!r:.40}; keep one of each"
        )
    return dict(pairs)


def read_references(path: Path) -> dict[str, list[str]]:
    """Return id of a picture -> captions, in the order of the pictures; none of one that is listed without.

    Raises `DataError` for a file that is not laid out so.
    """
    images, pairs = _captions(path)
    found: dict[str, list[str]] = {id: [] for id in images}
    for id, caption in pairs:
        found.setdefault(id, []).append(caption)
    return found


def _captions(path: Path) -> tuple[list[str], Iterator[tuple[str, str]]]:
    """Return the ids of the pictures that a file lists, and its captions with the ids of theirs."""
    page = load(path)
    images = page.get("images", []) if isinstance(page, dict) else []
    if not isinstance(images, list):
        raise DataError(f"{str(path)!r}: 'images' is {images!r:.60}, must be a list")
    ids = [identity(image, "id", f"{str(path)!r}, image {number}") for number, image in enumerate(images)]
    return ids, (_caption(record, where) for record, where in listed(page, "annotations", path))


def _caption(record: Any, where: str) -> tuple[str, str]:
    id = identity(record, "image_id", where)
    if not isinstance(record.get("caption"), str):
        raise DataError(f"{where}: 'caption' is {record.get('caption')!r:.60}, must be a text")
    return id, record["caption"]
