"""The grammar "chameleon": how documents and prompts are laid out for Chameleon and what was made of it.

    document      <s> words <break> IMAGE <eoss> words </s>
    prompt        <s> words <turn>              its answer: words </s>
                  <s> words <turn> <break>      its answer: IMAGE
    guided from   <s> <break>                   nothing of the user's
                  <s> <break> IMAGE <eoss> <break>     its pictures alone

    with marks    <break> height width  codes row  codes row ...  <eoss>        Lumina-mGPT 1: a picture
                  <s> words <turn> <break> height width                        a prompt; its answer: the rows
                  <break> height width                                         guided from, nothing before it

`<break>` and `<eoss>` are ours for what the file calls `<racm3:break>` and `<eoss>`. A prompt is only ever continued at
its end, as there are no masks. Where a turn ends a prompt is a format, by name:

    chameleon    every prompt (transformers' processor, `<END-OF-TURN>` of Meta's viewer)
    anole        before a picture alone (Anole's text2image.py; its interleaved_generation.py has none)
    lumina       every prompt, and its answer ends in one too; of vocabularies with marks, and words alone that ask for
                 a picture stand behind others that tell its size (`ORDERS`)
    plain        none, text that goes on

A document of several turns says where they begin (`TURNS`), and one ends before each: `<s> words <turn> words <turn>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cm3.errors import ConfigError, did_you_mean, shown
from cm3.vocab import Tokens, Vocab

FORMATS: dict[str, tuple[str, ...]] = {
    "chameleon": ("text", "image", "interleaved"),
    "anole": ("image",),
    "lumina": ("text", "image", "interleaved"),
    "plain": (),
}
"""By format, the kinds of answer before which a turn ends."""
ORDERS = {"lumina": "Generate an image of {width}x{height} according to the following prompt:\n"}
"""By format, what is said before words alone that ask for a picture."""
TURNS = "turns"
"""Name in a document's meta of the numbers of the parts that turns begin with, after the first."""
INFILL = (
    "this model has no mask tokens and was not trained to fill holes, so what it writes stands at the end of a prompt"
)
"""The reason why holes elsewhere are refused."""


def prompt_format(about: Mapping[str, Any], vocab: Vocab) -> str:
    """Return the format that `about.prompt_format` of a bundle names, else that of its vocabulary.

    Raises `ConfigError` for one that is unknown, for one of turns where the vocabulary has none, and where one and not
    the other has marks in pictures.
    """
    usual = "plain" if vocab.turn is None else "chameleon" if vocab.marks is None else "lumina"
    name = about.get("prompt_format", usual)
    if not isinstance(name, str) or name not in FORMATS:
        near = did_you_mean(str(name), FORMATS)
        raise ConfigError(f"about.prompt_format={shown(name)}: must be one of {', '.join(FORMATS)}.{near}")
    if FORMATS[name] and vocab.turn is None and vocab.grammar == "chameleon":
        raise ConfigError(f"about.prompt_format={name!r}: has turns, and this vocabulary has no id that ends one")
    if (name == "lumina") != (vocab.marks is not None):
        raise ConfigError(
            f"about.prompt_format={name!r}: 'lumina' is the format where vocab.marks has those of pictures, and no "
            "other; give both or neither"
        )
    return name


def ends(vocab: Vocab) -> tuple[int, ...]:
    """Return the ids that end what a model writes, the first of which is written where it is cut."""
    return (vocab.eos,) if vocab.turn is None else (vocab.eos, vocab.turn)


def block(codes: Tokens, vocab: Vocab) -> Tokens:
    """Lay out `<break> codes <eoss>`, with marks `<break> height width codes <eoss>`."""
    return Tokens.concat([Tokens.of(vocab.begins), codes, Tokens.of([vocab.eoss])])


def nothing(prompt: Tokens, vocab: Vocab) -> Tokens:
    """Return a prompt without all that the user gave: `<s>`, and what begins a picture where one follows.

    With marks it is what begins a picture, and of an interleaved answer, which reads the sizes of each of its pictures
    anew (`cm3.engine.grammar`), `<break>`.
    """
    drawn = bool(inside_picture(prompt.ids, vocab)[-1])
    if vocab.marks is not None:
        return Tokens.of(vocab.begins if drawn else vocab.begins[:1])
    return Tokens.of([vocab.bos, vocab.brk] if drawn else [vocab.bos])


def pictures_of(prompt: Tokens, vocab: Vocab) -> Tokens:
    """Return a prompt with its pictures, and without its words and turns."""
    ids, rows = prompt.ids, () if vocab.marks is None else (vocab.marks.row,)
    kept = vocab.is_image(ids) | np.isin(ids, (vocab.bos, *vocab.begins, *rows, vocab.eoss))
    return Tokens(ids[kept], prompt.cells[kept])


def inside_picture(ids: np.ndarray, vocab: Vocab) -> np.ndarray:
    """Tell after which tokens (s,) a picture is begun and not ended."""
    return np.cumsum(ids == vocab.brk) > np.cumsum(ids == vocab.eoss)
