"""The answers to the holes of a prompt: a continuation, or tails, and the loss weight of each token.

              one hole, at the very end         any other holes
    prompt    </s> words <break> <mask:0> </s>  </s> ask <mask:0> . <break> codes </s>
    opening   </s> words <break>                </s> ask <mask:0> . <break> codes </s>
    written                      codes </s>                                            <mask:0> blue <eoss>
    weights   rest               1     1        rest                                   rest     1    1

A model reads the opening and writes the rest, so training sequences with answers and the engine's plans
(`cm3.generate.answer_plan`) are two uses of this one layout. Paper section 2.2 for tails; section 4 tunes on such
sequences with every token weighing 1, so `rest` is 1 there. In the grammar "chameleon" a prompt is its opening, and
its one hole is at the end (`cm3/sequence/turns.py`); `<eoss> </s>` stand behind a picture that answers it. With marks
a turn ends there in the place of `</s>`, and what begins the picture has weight 1 too, as where Lumina-mGPT learnt.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cm3.sequence.holes import Prompt
from cm3.sequence.mask import tail
from cm3.sequence.segments import runs
from cm3.vocab import Tokens, Vocab


class Weighted(NamedTuple):
    """A sequence that is laid out already, masks included. `weights` float32 (s,): how much the loss of each token
    counts, when it is the target. `shown` int32 (s,): the ids as the model reads them, where some are hidden from it
    (`cm3.sequence.mask.hide`); None where it reads all. `kept` bool (s,): which tokens are trained on at all
    (`cm3.sequence.mask.thin`); None where all are."""

    tokens: Tokens
    weights: np.ndarray
    shown: np.ndarray | None = None
    kept: np.ndarray | None = None

    @property
    def length(self) -> int:
        """Return how many tokens of a window it takes."""
        return self.tokens.length if self.kept is None else int(self.kept.sum())

    @classmethod
    def of(cls, tokens: Tokens, weight: float = 1.0) -> Weighted:
        """Give every token the same weight."""
        return cls(tokens, np.full(tokens.length, weight, np.float32))

    @classmethod
    def concat(cls, pieces: Iterable[Weighted]) -> Weighted:
        """Join pieces end to end; codes that are hidden or left out in one stay so."""
        tokens, weights, shown, kept = zip(*pieces, strict=True)
        joined = cls(Tokens.concat(tokens), np.concatenate(weights))
        if any(ids is not None for ids in shown):
            seen = [t.ids if ids is None else ids for t, ids in zip(tokens, shown, strict=True)]
            joined = joined._replace(shown=np.concatenate(seen))
        if any(which is not None for which in kept):
            left = [np.ones(t.length, bool) if which is None else which for t, which in zip(tokens, kept, strict=True)]
            joined = joined._replace(kept=np.concatenate(left))
        return joined


def weigh(tokens: Tokens, vocab: Vocab, tail_weight: float = 1.0) -> Weighted:
    """Give every token weight 1, and the tails behind the closing `</s>`, masks included, `tail_weight`."""
    made = Weighted.of(tokens)
    if tail_weight != 1:
        made.weights[runs(tokens.ids, vocab)[-1][0] :] = tail_weight
    return made


def continued(prompt: Prompt, vocab: Vocab) -> bool:
    """Say whether a prompt has one hole, at the very end: it is continued from before its mask."""
    if vocab.grammar == "chameleon":
        return len(prompt.holes) == 1
    return len(prompt.holes) == 1 and int(prompt.tokens.ids[-2]) == vocab.mask(0)


def opening(prompt: Prompt, vocab: Vocab) -> Tokens:
    """Return what a model reads of a prompt before it writes."""
    if vocab.grammar == "chameleon" and prompt.holes:
        return prompt.tokens
    return prompt.tokens.slice(0, prompt.tokens.length - 2 * continued(prompt, vocab))


def closing(prompt: Prompt, vocab: Vocab) -> Tokens:
    """Return what closes a document behind the answer to a prompt that is continued."""
    picture = vocab.grammar == "chameleon" and prompt.holes[0].kind == "image"
    end = vocab.eos if vocab.marks is None or vocab.turn is None else vocab.turn
    return Tokens.of([vocab.eoss, end] if picture else [end])


def least_written(prompt: Prompt, vocab: Vocab) -> int:
    """Count what is written for a prompt whose texts are empty: image codes, and a mask and `<eoss>` for each tail.

    The `</s>` after a continuation is not fed to the model, so it takes no room.
    """
    return sum(len(h.cells) for h in prompt.holes) + (0 if continued(prompt, vocab) else 2 * len(prompt.holes))


def weighted_tail(mask: int, span: Tokens, vocab: Vocab, weight: float = 1.0, rest: float = 1.0) -> Weighted:
    """Lay out the tail of mask i; the span and its `<eoss>` have `weight`, the mask has `rest`."""
    made = Weighted.of(tail(mask, span, vocab), weight)
    made.weights[0] = rest
    return made


def answered(prompt: Prompt, span: Tokens, vocab: Vocab, rest: float = 1.0) -> Weighted:
    """Lay out a prompt of one hole with what fills it; all but the span and the token that ends it weighs `rest`. The
    span of a picture is `image_tokens`."""
    if continued(prompt, vocab):
        answer = Weighted.of(Tokens.concat([span, closing(prompt, vocab)]))
    else:
        answer = weighted_tail(0, span, vocab, rest=rest)
    asked = Weighted.of(opening(prompt, vocab), rest)
    if vocab.marks is not None and prompt.holes[0].kind == "image":
        asked.weights[-len(vocab.begins) :] = 1
    return Weighted.concat([asked, answer])
