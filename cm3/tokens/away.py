"""What a guided prompt is pulled away from: the same prompt with some of its parts as `<mask:i>`.

    kind      prompt                                    stream 1 (nothing of the user's)          stream 2
    image     </s> words <break>                        </s> <mask> <break>
    region    </s> words <break> image with holes       </s> <mask> <break> image with holes
    edit      </s> order <break> image <break> words    </s> order <break> <mask> <break> <mask>  order, image, <mask>
    control   </s> order <break> image <break> words    </s> order <break> <mask> <break> <mask>
    segment   </s> order <break> image                  </s> order <break> <mask>

The order of a task ("Edit first image following the instruction") stays: what is amplified is what the user gave, and
the model still knows what it is to make. A part that is hidden is one whole mask, pictures too, numbered from the left.

So each stream is the very beginning of a training sequence whose parts `HIDDEN[kind][i]` were moved to the end whole
(`cm3.data.mask.move_spans`), and a model reads it as it was trained where some of its examples are masked so. Paper
section 3.1 for words, section 4.1 for the two scales of editing; their order of streams is that of `cm3.engine`.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from cm3.vocab import Tokens, Vocab

HIDDEN: dict[str, tuple[tuple[int, ...], ...]] = {"edit": ((1, 2), (2,)), "control": ((1, 2),), "segment": ((1,),)}
"""By kind of task, the parts that each stream besides the full prompt has masked."""


def without(tokens: Tokens, parts: Collection[int], vocab: Vocab, first: int = 0) -> Tokens:
    """`tokens` with each of `parts`, by place among the runs between `<break>` and `</s>`, as `<mask:first>` on."""
    v = vocab
    borders = [*np.flatnonzero(np.isin(tokens.ids, (v.eos, v.brk))).tolist(), tokens.length]
    pieces: list[Tokens] = []
    for part, (start, stop) in enumerate(zip(borders, borders[1:], strict=False)):
        if part in parts:
            pieces += [tokens.slice(start, start + 1), Tokens.of([v.mask(first)])]
            first += 1
        else:
            pieces.append(tokens.slice(start, stop))
    return Tokens.concat(pieces)


def wordy(tokens: Tokens, vocab: Vocab) -> list[int]:
    """The parts of a prompt that have words in them."""
    borders = np.isin(tokens.ids, (vocab.eos, vocab.brk)).cumsum() - 1
    return sorted({int(part) for part in borders[vocab.is_text(tokens.ids)]})
