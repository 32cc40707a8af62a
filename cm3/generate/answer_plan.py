"""The engine's plan for a prompt, and the room that it takes in the context."""

from __future__ import annotations

from cm3.engine.grammar import Codes, Force, FreeText, Step
from cm3.errors import RequestError
from cm3.sequence.answers import continued, least_written, opening
from cm3.sequence.holes import Prompt
from cm3.vocab import Vocab


def room(prompt: Prompt, vocab: Vocab, context: int, max_tokens: int) -> int:
    """Count the tokens that the context has left for documents when every text is as long as it may be."""
    written = least_written(prompt, vocab) + sum(h.kind == "text" for h in prompt.holes) * max_tokens
    return context - opening(prompt, vocab).length - written


def plan(prompt: Prompt, vocab: Vocab, context: int, max_tokens: int, length: int) -> tuple[Step, ...]:
    """Plan what to write for each hole after a prompt of `length` tokens; texts share what the context has left, at
    most `max_tokens` each. Raises `RequestError` where it has no room."""
    v, ends = vocab, continued(prompt, vocab)
    texts = sum(h.kind == "text" for h in prompt.holes)
    fixed = length + least_written(prompt, vocab)
    limit = min(max_tokens, (context - fixed) // texts) if texts else 0
    if fixed > context or (texts and limit < 1):
        raise RequestError(
            f"prompt: takes {fixed} tokens with what is to be written, and this model's context is {context}; "
            "shorten it or leave a picture out"
        )
    steps: list[Step] = []
    for hole in prompt.holes:
        image = hole.kind == "image"
        if ends:
            return (Codes(hole.cells) if image else FreeText(limit, (v.eos, v.brk), min_tokens=1),)
        steps += [Force((v.mask(hole.mask),)), Codes(hole.cells) if image else FreeText(limit, (v.eoss,))]
        steps += [Force((v.eoss,))] if image else []
    return tuple(steps)
