"""The engine's plan for a prompt, and the room that it takes in the context."""

from __future__ import annotations

from cm3.engine.grammar import Codes, Force, FreeText, Interleaved, Step
from cm3.errors import RequestError
from cm3.sequence.answers import continued, least_written, opening
from cm3.sequence.holes import Prompt
from cm3.sequence.turns import ends
from cm3.vocab import Vocab


def room(prompt: Prompt, vocab: Vocab, context: int, max_tokens: int, pictures: int) -> int:
    """Count the tokens that the context has left for documents when every text is as long as it may be, and there are
    as many pictures as may be."""
    written = sum(h.kind != "image" for h in prompt.holes) * max_tokens
    if prompt.interleaved:
        written += pictures * _picture(prompt, vocab)
    else:
        written += least_written(prompt, vocab)
    return context - opening(prompt, vocab).length - written


def plan(prompt: Prompt, vocab: Vocab, context: int, max_tokens: int, length: int, pictures: int) -> tuple[Step, ...]:
    """Plan what to write for each hole after a prompt of `length` tokens; texts share what the context has left, at
    most `max_tokens` each. An interleaved answer has so many words in all and at most `pictures` pictures, and fewer
    where the context has no room for more. Raises `RequestError` where it has no room."""
    if prompt.interleaved:
        return (_interleaved(prompt, vocab, context - length, max_tokens, pictures, length),)
    v, on = vocab, continued(prompt, vocab)
    texts = sum(h.kind == "text" for h in prompt.holes)
    fixed = length + least_written(prompt, vocab)
    limit = min(max_tokens, (context - fixed) // texts) if texts else 0
    if fixed > context or (texts and limit < 1):
        raise RequestError(_too_long(fixed, context))
    steps: list[Step] = []
    for hole in prompt.holes:
        image = hole.kind == "image"
        if on:
            return (Codes(hole.cells) if image else FreeText(limit, (v.eos, v.brk, *ends(v)[1:]), min_tokens=1),)
        steps += [Force((v.mask(hole.mask),)), Codes(hole.cells) if image else FreeText(limit, (v.eoss,))]
        steps += [Force((v.eoss,))] if image else []
    return tuple(steps)


def _interleaved(prompt: Prompt, v: Vocab, left: int, max_tokens: int, pictures: int, length: int) -> Interleaved:
    picture = _picture(prompt, v)
    limit = min(max_tokens, left - picture)
    if limit < 1:
        raise RequestError(_too_long(length + picture + 1, left + length))
    number = min(pictures, (left - limit) // picture)
    # In the grammar "cm3" no part is empty: words come first after a border.
    border = v.grammar == "cm3" and int(opening(prompt, v).ids[-1]) in (v.eos, v.brk)
    cells, behind = prompt.holes[0].cells, v.begins[1:]
    return Interleaved(limit, ends(v), cells, number, min_tokens=int(border), behind=behind)


def _picture(prompt: Prompt, vocab: Vocab) -> int:
    """Count the tokens of a picture in an interleaved answer: its codes and marks, and those at both ends."""
    return len(prompt.holes[0].cells) + len(vocab.begins) + 1


def _too_long(tokens: int, context: int) -> str:
    return (
        f"prompt: takes {tokens} tokens with what is to be written, and this model's context is {context}; "
        "shorten it or leave a picture out"
    )
