"""The CM3 objective: spans move to the end of a document, so that a left-to-right model learns to fill holes.

    document     </s> a red circle <break> IMAGE </s>
                        ---        move_spans            put_back
    source       </s> a <mask:0> circle <break> IMAGE </s>
    and tails                                             <mask:0> red <eoss>

Paper section 2.2; the law of drawing spans is not printed there. `segments` is ours: draw the number of spans, then
distinct segments (runs between `<break>` and `</s>`, text and image alike), then a span inside each, so that a short
caption is masked as often as a long image. `published` is the one in the authors' code: spans over the whole length,
clipped to the segment that they overlap most, which almost never masks a short caption (docs/paper.md 3.4).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cm3.errors import ConfigError, DataError
from cm3.sequence.segments import Span, segments
from cm3.vocab import Tokens, Vocab

ROOM = 3
"""Tokens that a document is longer by for each span: its mask twice, and `<eoss>`."""


@dataclass(frozen=True)
class MaskLaw:
    """The law by which spans are drawn. Raises `ConfigError` for a value out of range."""

    law: Literal["segments", "published"] = "segments"
    """How spans are chosen: inside segments, or as the authors' code does."""
    rate: float = 1.0
    """Mean of the Poisson number of spans; 0 gives plain left-to-right documents."""
    most: int = 0
    """Most segments that are masked in one document; 0 is no limit. With 1, the other modality is always there whole,
    which a hole's filling is learnt from soonest. For `segments` only."""
    text: float | None = None
    """Probability that the first segment to be masked is a text, where there are both kinds; None chooses uniformly
    among all segments. For `segments` only."""
    whole_text: float = 0.5
    """Probability that a chosen text segment is masked whole (else uniform parts of it)."""
    pieces: int = 1
    """Most parts that are masked in one text; how many is uniform from 1. More teach more holes a document, and
    shorter ones. For `segments` only."""
    whole_image: float = 0.5
    """Probability that a chosen image is masked whole."""
    box: float = 0.0
    """Probability that the part of an image is a rectangle, one span a row (needs `columns`), instead of a run."""
    columns: int = 0
    """Columns of the image grid."""
    tail_weight: float = 1.0
    """Loss weight of what was moved to the end. The paper's is 1; more of it teaches filling holes sooner."""
    hide: float = 0.0
    """Share of documents whose last image, where no words come after it, has codes that are hidden from the model
    (`hide`), though it is to foretell them: with fewer codes to go on, it learns to listen to the words. Ours; 0 is the
    paper's."""
    thin: float = 0.0
    """Share of the codes between two of their own kind that are left out (`thin`): a plain ground is then told by few
    of its cells, and a window holds more pictures. Ours; 0 is the paper's."""

    def __post_init__(self) -> None:
        if self.law not in ("segments", "published"):
            raise ConfigError(f"mask.law={self.law!r}: must be 'segments' or 'published'")
        if not 0 <= self.rate <= 16:
            raise ConfigError(f"mask.rate={self.rate}: must be in 0..16")
        if self.most < 0:
            raise ConfigError(f"mask.most={self.most}: must be 0 (no limit) or more")
        if self.text is not None and not 0 <= self.text <= 1:
            raise ConfigError(f"mask.text={self.text}: is a probability, must be in 0..1")
        if not 1 <= self.pieces <= 16:
            raise ConfigError(f"mask.pieces={self.pieces}: must be in 1..16")
        for name in ("whole_text", "whole_image", "box", "hide", "thin"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"mask.{name}={getattr(self, name)}: is a probability, must be in 0..1")
        if not 0 < self.tail_weight <= 100:
            raise ConfigError(f"mask.tail_weight={self.tail_weight}: must be over 0 and at most 100")
        if self.box > 0 and self.columns < 1:
            raise ConfigError(f"mask.columns={self.columns}: must be the columns of the image grid when mask.box > 0")


def cm3_mask(
    tokens: Tokens, vocab: Vocab, law: MaskLaw, rng: np.random.Generator, longest: int | None = None
) -> Tokens:
    """Draw spans of a document by `law` and move them to its end. `cm3_unmask` is the exact inverse.

    `tokens` is one whole document. No span holds a `<break>` or `</s>`. Nothing is cut: the result is longer by three
    tokens a span. Where it would be longer than `longest`, what was drawn last is left out, none where there is no room
    for three tokens. Raises `DataError` when the document holds masks already.
    """
    if bool(vocab.is_mask(tokens.ids).any()):
        raise DataError("cm3_mask: the document holds <mask> tokens already; mask a document once")
    number = min(int(rng.poisson(law.rate)), vocab.masks)
    if law.most and law.law == "segments":
        number = min(number, law.most)
    most = vocab.masks if longest is None else min(vocab.masks, (longest - tokens.length) // ROOM)
    if number == 0 or most < 1:
        return tokens
    draw = _spans_by_segment if law.law == "segments" else _spans_as_published
    return move_spans(tokens, draw(tokens, vocab, law, number, most, rng), vocab)


def hide(tokens: Tokens, vocab: Vocab, law: MaskLaw, rng: np.random.Generator) -> np.ndarray | None:
    """Return the ids of a document as a model reads them, int32 (s,), with codes of its last image as `<unk>`; None
    where nothing is hidden.

    A share `law.hide` of documents has hidden codes: half of them all, the others each with a probability that is
    drawn uniformly. Codes keep their cells, so it is known where they stand. Nothing is hidden where words come after
    the image, as they tell what it shows. (Word dropout: Bowman et al. 2016, arXiv:1511.06349, of captions; here of
    codes.)
    """
    if law.hide == 0 or rng.random() >= law.hide:
        return None
    starts = np.flatnonzero(tokens.cells == 1)
    if not len(starts) or bool(vocab.is_text(tokens.ids[starts[-1] :]).any()):
        return None
    rate = 1.0 if rng.random() < 0.5 else float(rng.random())
    hidden = (tokens.cells > 0) & (rng.random(tokens.length) < rate)
    hidden[: starts[-1]] = False
    return np.where(hidden, np.int32(vocab.unk), tokens.ids)


def thin(tokens: Tokens, vocab: Vocab, law: MaskLaw, rng: np.random.Generator) -> np.ndarray | None:
    """Return which tokens of a document are kept, bool (s,); None where all are.

    Each code that stands between two equal ones is left out with the probability `law.thin`. Those that are kept keep
    their positions, and foretell the token that came after them.
    """
    if law.thin == 0:
        return None
    left_out = between_equals(tokens.ids) & vocab.is_image(tokens.ids)
    left_out &= rng.random(len(left_out)) < law.thin
    return ~left_out if left_out.any() else None


def between_equals(ids: np.ndarray) -> np.ndarray:
    """Tell which ids stand between two that are equal to them, bool (s,)."""
    same = ids[1:] == ids[:-1]
    made = np.zeros(len(ids), bool)
    made[1:-1] = same[:-1] & same[1:]
    return made


def move_spans(tokens: Tokens, spans: list[Span], vocab: Vocab) -> Tokens:
    """Replace each span by `<mask:i>` and append its tail, in order of position.

    Raises `DataError` for spans that are empty, overlap, or are more than the vocabulary has masks.
    """
    spans = sorted(spans)
    if len(spans) > vocab.masks:
        raise DataError(f"move_spans: {len(spans)} spans, the vocabulary has {vocab.masks} masks; raise vocab.masks")
    source, tails, at, end = [], [], 0, Tokens.of([vocab.eoss])
    for i, (start, stop) in enumerate(spans):
        if not at <= start < stop <= tokens.length:
            raise DataError(f"move_spans: span {start}..{stop} is empty, overlaps or is past the end ({tokens.length})")
        mask = Tokens.of([vocab.mask(i)])
        source += [tokens.slice(at, start), mask]
        tails += [mask, tokens.slice(start, stop), end]
        at = stop
    return Tokens.concat([*source, tokens.slice(at, tokens.length), *tails])


def tail(mask: int, span: Tokens, vocab: Vocab) -> Tokens:
    """Lay out `<mask:i> span <eoss>`: what stands behind a document for its mask i."""
    return Tokens.concat([Tokens.of([vocab.mask(mask)]), span, Tokens.of([vocab.eoss])])


def cm3_unmask(tokens: Tokens, vocab: Vocab) -> Tokens:
    """Put the spans of a masked document back. The exact inverse of `cm3_mask` and `move_spans`.

    Raises `DataError` as `split_tails` does.
    """
    return put_back(*split_tails(tokens, vocab), vocab)


def split_tails(tokens: Tokens, vocab: Vocab) -> tuple[Tokens, list[Tokens]]:
    """Take a masked document apart: the source, and the span of each of its masks in order.

    Raises `DataError` where the tails do not answer the masks of the source one for one.
    """
    where = np.flatnonzero(vocab.is_mask(tokens.ids)).tolist()
    number, odd = divmod(len(where), 2)
    names = [int(tokens.ids[w]) for w in where]
    if odd or names[:number] != names[number:] or len(set(names[:number])) != number:
        raise DataError("cm3_unmask: each <mask:i> must stand once in the source and once in the tail, in one order")
    starts = [*where[number:], tokens.length]
    spans = []
    for start, stop in itertools.pairwise(starts):
        if tokens.ids[stop - 1] != vocab.eoss:
            raise DataError(f"cm3_unmask: the span after {vocab.name(int(tokens.ids[start]))} does not end with <eoss>")
        spans.append(tokens.slice(start + 1, stop - 1))
    return tokens.slice(0, starts[0]), spans


def put_back(source: Tokens, spans: Sequence[Tokens], vocab: Vocab) -> Tokens:
    """Replace the masks of a source, from the left, by `spans`, one for each; all else is as it was."""
    pieces, at = [], 0
    for place, span in zip(np.flatnonzero(vocab.is_mask(source.ids)).tolist(), spans, strict=True):
        pieces += [source.slice(at, place), span]
        at = place + 1
    return Tokens.concat([*pieces, source.slice(at, source.length)])


def _spans_by_segment(
    tokens: Tokens, vocab: Vocab, law: MaskLaw, number: int, most: int, rng: np.random.Generator
) -> list[Span]:
    found = segments(tokens.ids, vocab)
    chosen = rng.permutation(len(found))
    if law.text is not None:
        kind = np.array([bool(vocab.is_image(tokens.ids[start])) for start, _ in found])
        first = np.flatnonzero(kind[chosen] == (rng.random() >= law.text))
        if len(first):
            chosen = np.concatenate([chosen[first[:1]], np.delete(chosen, first[0])])
    chosen = chosen[:number]
    spans: list[Span] = []
    for start, stop in (found[i] for i in sorted(chosen.tolist())):
        image = bool(vocab.is_image(tokens.ids[start]))
        if rng.random() < (law.whole_image if image else law.whole_text):
            new = [(start, stop)]
        elif image and rng.random() < law.box and (stop - start) % law.columns == 0:
            new = _box(start, (stop - start) // law.columns, law.columns, rng)
        elif not image and law.pieces > 1:
            new = _pieces(start, stop, law.pieces, rng)
        else:
            a, b = sorted(rng.integers(start, stop + 1, size=2).tolist())
            # Equal ends would be an empty span; one token is the nearest that is not.
            new = [(a, b) if a < b else (min(a, stop - 1), min(a, stop - 1) + 1)]
        # Boxes of many rows, or many pieces, can outrun the masks and the room; what does not fit whole is left out, so
        # that every box is a rectangle.
        spans += new if len(spans) + len(new) <= most else []
    return spans


def _pieces(start: int, stop: int, most: int, rng: np.random.Generator) -> list[Span]:
    """Draw one to `most` parts of a segment, at least a token between two of them; fewer where it is short."""
    number = int(rng.integers(1, most + 1))
    number = min(number, (stop - start + 1) // 2)
    borders = sorted(rng.choice(stop - start + 1, size=2 * number, replace=False).tolist())
    return [(start + a, start + b) for a, b in zip(borders[::2], borders[1::2], strict=True)]


def _box(start: int, rows: int, columns: int, rng: np.random.Generator) -> list[Span]:
    """Draw a rectangle of the grid with uniform corners, one span a row, also where rows run into each other."""
    top, bottom = sorted(rng.choice(rows + 1, size=2, replace=False).tolist())
    left, right = sorted(rng.choice(columns + 1, size=2, replace=False).tolist())
    return row_spans(start, columns, range(top, bottom), left, right)


def row_spans(start: int, columns: int, rows: range, left: int, right: int) -> list[Span]:
    """Return one span a row for columns `left` to `right` (exclusive) of a grid whose first code is token `start`."""
    return [(start + r * columns + left, start + r * columns + right) for r in rows]


def _spans_as_published(
    tokens: Tokens, vocab: Vocab, law: MaskLaw, number: int, most: int, rng: np.random.Generator
) -> list[Span]:
    """Draw spans by the law of metaseq's cm3_dataset.py in words (docs/paper.md 3.2): candidates, no overlap, clip to a
    segment."""
    length, found = tokens.length, segments(tokens.ids, vocab)
    kept: list[Span] = []
    for _ in range(1 if number == 1 else number * number):
        a, b = sorted((rng.random(2) * length).tolist())
        start, stop = int(np.floor(a)), int(np.rint(b))
        if start >= stop or any(start < t and s < stop for s, t in kept):
            continue
        kept.append((start, stop))
        if len(kept) == number:
            break
    clipped = []
    for start, stop in kept:
        overlap, best = max(((min(stop, t) - max(start, s), (s, t)) for s, t in found), default=(0, (0, 0)))
        if overlap > 0:
            clipped.append((max(start, best[0]), min(stop, best[1])))
    return clipped[:most]
