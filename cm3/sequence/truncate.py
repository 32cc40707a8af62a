"""A document that is too long as a shorter one that is whole in itself: no picture is split, `</s>` closes it.

    truncate       </s> text <break> IMAGE <break> te|xt ..     ->  </s> text <break> IMAGE <break> te </s>
    shorten_text   </s> a lo|ng text <break> IMAGE </s>         ->  </s> a lo <break> IMAGE </s>
    cut_texts      each text by itself, between characters, when a store is made
    fit            the first two, and then masks, so that all of it fits

Masks come after the cut, so no tail is cut and no span is left without its other half. The authors' code fills blocks
of 4,096 tokens and cuts wherever one ends; half of a picture would teach a model to end pictures early.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cm3.sequence.mask import ROOM
from cm3.sequence.segments import document_of, runs, segments
from cm3.sequence.turns import inside_picture
from cm3.vocab import Tokens, Vocab

TURNS = 8
"""Times that a document is made shorter so that masks fit."""
Masked = Callable[..., Tokens]
"""(tokens, longest or None) -> the same masked, always from the same numbers."""


class Fitted(NamedTuple):
    """A document as it will be packed: None where nothing of it, or no picture of its pictures, has room."""

    tokens: Tokens | None
    truncated: bool = False
    unmasked: bool = False
    """It has room, and none of the masks that were drawn has."""


def fit(document: Tokens, longest: int, vocab: Vocab, masked: Masked) -> Fitted:
    """Truncate a document and mask it, so that it has `longest` tokens at most with its masks.

    One that is cut in any case loses what its masks lack as well, if it still has a picture then: how many masks there
    will be shows only when they are drawn, so they are drawn again, from the same numbers; it takes a turn or two. One
    that fits but for its masks gets as many of them as there is room for. Where there is room for none, it loses the
    last words of its longest text for them; where no text can give them, it stays unmasked.
    """
    cut = truncate(document, longest, vocab)
    if cut is None:
        return Fitted(None)
    truncated, room, shorter = cut is not document, longest, cut
    for _ in range(TURNS if truncated else 1):
        whole = masked(shorter)
        if whole.length <= longest:
            return Fitted(whole, truncated)
        room -= whole.length - longest
        found = truncate(document, room, vocab)
        if found is None:
            break
        shorter = found
    fewer = masked(cut, longest)
    if fewer.length > cut.length:
        return Fitted(fewer, truncated)
    for turn in range(1, TURNS + 1):
        found = shorten_text(cut, ROOM * turn, vocab)
        if found is None:
            break
        whole = masked(found, longest)
        if whole.length > found.length:
            return Fitted(whole, truncated=True)
    return Fitted(cut, truncated, unmasked=True)


def truncate(tokens: Tokens, room: int, vocab: Vocab) -> Tokens | None:
    """Return the longest beginning of a document that fits `room` tokens and is a document.

    It ends where a part ends, or inside a text. None where nothing is left, and where a document that has a picture
    would be left without any. `tokens` is one whole document without masks.
    """
    if tokens.length <= room:
        return tokens
    code = vocab.is_image(tokens.ids)
    if vocab.grammar == "chameleon":
        # What may stand before the closing `</s>`: all up to a token that is inside no picture.
        whole = np.flatnonzero(~inside_picture(tokens.ids[: max(room - 1, 0)], vocab))
        end = int(whole[-1]) + 1 if whole.size else 0
        if end < 2 or (code.any() and not code[:end].any()):
            return None
        return Tokens.concat([tokens.slice(0, end), Tokens.of([vocab.eos])])
    # A part ends before a border, and the border's place is what its `</s>` needs.
    end = max((start - 1 for start, _ in runs(tokens.ids, vocab) if start <= room), default=0)
    following = end + 1
    if room - 1 > following and not code[following]:
        end = room - 1
    if end == 0 or (code.any() and not code[:end].any()):
        return None
    return Tokens.concat([tokens.slice(0, end), Tokens.of([vocab.eos])])


def shorten_text(tokens: Tokens, number: int, vocab: Vocab) -> Tokens | None:
    """Drop the last `number` tokens of the longest text of a document. None where that would leave nothing of it."""
    texts = [(a, b) for a, b in segments(tokens.ids, vocab) if not vocab.is_image(tokens.ids[a])]
    start, stop = max(texts, key=lambda span: span[1] - span[0], default=(0, 0))
    if stop - number <= start:
        return None
    return Tokens.concat([tokens.slice(0, stop - number), tokens.slice(stop, tokens.length)])


def cut_texts(tokens: Tokens, most: int, vocab: Vocab, spell: Callable[[list[int]], bytes]) -> Tokens:
    """Cut each text of a document to `most` tokens, between characters; the same object where none was longer.

    `spell` gives the bytes of ids of the text tokenizer. A text of which no whole character is left goes, and the
    border before or after it. `</s> </s>` is left of nothing.
    """
    ids, kept, cut = tokens.ids, list[Tokens](), False
    for start, stop in runs(ids, vocab)[:-1]:
        end = stop
        if stop - start > most and vocab.is_text(ids[start]):
            end, cut = start + most, True
            # A character may be spelt by several tokens; half of one is none.
            while end > start and not _whole(spell((ids[start:end] - vocab.text_start).tolist())):
                end -= 1
        if end > start:
            kept.append(tokens.slice(start, end))
    return document_of(kept, vocab) if cut else tokens


def _whole(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
