"""Unconditional prompts: the same prompt with some of its parts as `<mask:i>`, which guidance leads away from.

    kind      prompt                                    stream 1 (nothing of the user's)          stream 2
    image     </s> words <break>                        </s> <mask> <break>
    region    </s> words <break> image with holes       </s> <mask> <break> image with holes
    edit      </s> order <break> image <break> words    </s> order <break> <mask> <break> <mask>  order, image, <mask>
    control   </s> order <break> image <break> words    </s> order <break> <mask> <break> <mask>
    segment   </s> order <break> image                  </s> order <break> <mask>

The order of a task ("Edit first image following the instruction") stays: what is amplified is what the user gave, and
the model still knows what it is to make. A part that is hidden is one whole mask, pictures too, numbered from the left.

So each stream is the very beginning of a training sequence whose parts `HIDDEN[kind][i]` were moved to the end whole
(`cm3.sequence.mask.move_spans`), and a model reads it as it was trained where some of its examples are masked so. Paper
section 3.1 for words, section 4.1 for the two scales of editing; their order of streams is that of `cm3.engine`.
"""

from __future__ import annotations

from collections.abc import Collection

from cm3.sequence.segments import runs
from cm3.vocab import Tokens, Vocab

HIDDEN: dict[str, tuple[tuple[int, ...], ...]] = {"edit": ((1, 2), (2,)), "control": ((1, 2),), "segment": ((1,),)}
"""By kind of task, the parts that each stream besides the full prompt has masked."""


def without(tokens: Tokens, parts: Collection[int], vocab: Vocab, first: int = 0) -> Tokens:
    """Replace each of `parts` (by number among the `runs` of a prompt) by a mask, from `<mask:first>` on."""
    pieces: list[Tokens] = []
    for part, (start, stop) in enumerate(runs(tokens.ids, vocab)):
        hidden = part in parts
        span = Tokens.of([vocab.mask(first)]) if hidden else tokens.slice(start, stop)
        pieces += [tokens.slice(start - 1, start), span]
        first += hidden
    return Tokens.concat(pieces)


def wordy(tokens: Tokens, vocab: Vocab) -> list[int]:
    """Return the numbers of the parts of a prompt that have words in them."""
    return [i for i, (start, stop) in enumerate(runs(tokens.ids, vocab)) if vocab.is_text(tokens.ids[start:stop]).any()]
