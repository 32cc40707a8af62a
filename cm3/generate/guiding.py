"""The streams that guide a request: the prompt, and beside it prompts to lead away from.

    grammar "cm3"          parts of the prompt as masks (cm3/sequence/unconditional.py)
    grammar "chameleon"    guidance          u + g (c - u)                c the prompt, u `<s> <break>`
                           image_guidance    u + s (i - u) + g (c - i)    i the prompt's pictures without its words

                           with marks of a picture's size u is `<break> height width`, with nothing before it

The scales of the second are Meta's "guidance_scale_text" and "guidance_scale_image". Without pictures in a prompt i is
u, so two streams give the same. In an interleaved answer each picture is guided anew: `cm3.engine.grammar.Interleaved`.
"""

from __future__ import annotations

from dataclasses import replace

from cm3.engine.request import Sampling
from cm3.errors import RequestError
from cm3.generate.prompt import WORDS
from cm3.sequence.answers import continued
from cm3.sequence.before import prepend
from cm3.sequence.holes import Prompt
from cm3.sequence.turns import nothing, pictures_of
from cm3.sequence.unconditional import HIDDEN, without, wordy
from cm3.vocab import Tokens, Vocab


def guiding(
    tokens: Tokens, prompt: Prompt, vocab: Vocab, sampling: Sampling, kind: str
) -> tuple[tuple[Tokens, ...], Sampling]:
    """Return the streams of a prompt that is laid out as `tokens`, for a kind of request, and how they are sampled."""
    scales = {sampling.guidance, sampling.image_guidance} - {None, 1.0}
    if kind in ("text", *WORDS) or not (scales or sampling.contrast is not None):
        return (tokens,), sampling
    if vocab.grammar == "chameleon":
        shown = prompt.interleaved or bool(vocab.is_image(tokens.ids).any())
        if shown and sampling.image_guidance is not None:
            return (tokens, nothing(tokens, vocab), pictures_of(tokens, vocab)), sampling
        return (tokens, nothing(tokens, vocab)), replace(sampling, image_guidance=None)
    if prompt.interleaved:  # of the user's, nothing; what is written behind it is read as it comes
        return (tokens, Tokens.of([vocab.eos, vocab.mask(0)])), replace(sampling, image_guidance=None)
    first = 0 if continued(prompt, vocab) else len(prompt.holes)
    hidden = HIDDEN.get(kind) or ((said,) if (said := wordy(tokens, vocab)) else ())
    return (tokens, *(without(tokens, parts, vocab, first) for parts in hidden)), sampling


def behind(context: Tokens, streams: tuple[Tokens, ...], kept: bool, vocab: Vocab) -> tuple[Tokens, ...]:
    """Return the streams with the documents of a context before the first, and before the others where it is `kept`.

    Raises `RequestError` where it cannot be, as a model is guided from a picture with nothing before it.
    """
    if kept and len(streams) > 1 and vocab.marks is not None:
        raise RequestError(
            "unconditional='kept': this model is guided from a picture that has nothing before it; give "
            "unconditional='dropped'"
        )
    return tuple(prepend(context, stream) if kept or not i else stream for i, stream in enumerate(streams))
