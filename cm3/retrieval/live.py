"""Retrieval at generation: prompt -> the documents to draw on, and where they stand before it.

    </s> (text <break> image <break>)*K prompt ...

Documents stand in retrieved order, best first, without a shuffle (paper.md 1.5); what searches is the words of the
prompt, each thing that they name by itself, and its pictures, holes left out. In training neighbours are computed
beforehand (`cm3.data.neighbours`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from cm3.document import Document, Image, Part, Text
from cm3.errors import RequestError, whole_number
from cm3.retrieval.embed import Encoder, load_encoder
from cm3.retrieval.select import MOST, Retrieved, select
from cm3.sequence.before import context_of, most_relevant, saved
from cm3.vocab import Tokens, Vocab

if TYPE_CHECKING:
    from cm3.retrieval.memory import Memory


class Retriever:
    """A memory bank and the encoder that searches it, both opened when they are first needed."""

    def __init__(
        self,
        memory: str | Path | Memory | None = None,
        encoder: str | Path | Encoder | None = None,
        own: str | Path | None = None,
        check: Callable[[Path], None] = lambda folder: None,
        device: Any = "cpu",
    ) -> None:
        """Take `memory`: a bank or its folder. `encoder`: one, its folder or its hub id. `device`: where one runs
        that is opened.

        Without an encoder, that of the hub is taken if the bank names one and it is on this machine already (a bank may
        come from a stranger, so its word fetches nothing), else `own`, the folder of the model's. `check` is called
        with each folder after it was opened, and raises where it is not the model's any more.
        """
        self._memory, self._encoder, self._own, self._check = memory, encoder, own, check
        self._device = str(device)

    @property
    def has_memory(self) -> bool:
        """Tell whether there is a bank, opened or not."""
        return self._memory is not None

    @property
    def memory(self) -> Memory:
        """Return the bank. Raises `RequestError` where there is none, and what opening it raises."""
        return self._open()[0]

    @property
    def encoder(self) -> Encoder:
        """Return the encoder of the bank; without a bank, the one given, else the model's own.

        Raises `RequestError` where there is none, and what opening it raises.
        """
        if self._memory is not None:
            return self._open()[1]
        found = self._own if self._encoder is None else self._encoder
        if found is None:
            raise RequestError("this model has no encoder; give one, encoder=FOLDER (--encoder FOLDER)")
        if isinstance(found, str | Path):
            folder, found = found, load_encoder(found, device=self._device)
            self._check(Path(folder))
        self._encoder = found
        return self._encoder

    def search(self, prompt: Document, k: int) -> list[Retrieved]:
        """Return up to `k` documents of the bank for a prompt, most relevant first, never the prompt itself.

        A prompt that names several things (`mentions`) is searched with each of them: the vector of all words lies
        between what shows one thing and what shows another, and near neither. The best for each thing come first, the
        best of them before the others, then the second best, and so on. The whole is a search beside them where it has
        pictures, or where one document is wanted, which may show all of it.

        Raises `RequestError` for `k` outside 0..3, no bank or an empty one, and a prompt with nothing to search with;
        `CheckpointError` for a bank of another encoder.
        """
        k = check_number("retrieve", k)
        query = query_of(prompt)
        if k == 0:
            return []
        named = [words for words in mentions(query.text) if words]
        if len(named) < 2:
            return select(*self._open(), query, k)
        queries = [Document((Text(words),), id=query.id) for words in named]
        queries += [query] * (k == 1 or bool(query.images))
        return _in_turn([select(*self._open(), one, k) for one in queries], k)

    def find(
        self, prompts: Sequence[Document], k: int, by_hand: Sequence[Sequence[Document | Retrieved]] | None = None
    ) -> list[list[Retrieved]]:
        """Return the documents of each prompt: those given by hand, else what `search` finds, once for equal prompts.

        Raises `RequestError` as `search` does, for both ways at once, and for a document that cannot be read.
        """
        if by_hand is None and not check_number("retrieve", k):
            return [[] for _ in prompts]  # prompts are not even compared with each other
        if by_hand is None:
            known: dict[Document, list[Retrieved]] = {}
            for prompt in prompts:
                if prompt not in known:
                    known[prompt] = self.search(prompt, k)
            return [known[prompt] for prompt in prompts]
        if k:
            raise RequestError(f"retrieve={k}: documents= are given as well; give one of the two")
        for some in by_hand:
            check_number("documents", len(some))
        return [[_given(one) for one in some] for some in by_hand]

    def _open(self) -> tuple[Memory, Encoder]:
        if self._memory is None:
            raise RequestError("retrieve: there is no memory bank; give memory=FOLDER (--memory FOLDER), or retrieve=0")
        if isinstance(self._memory, str | Path):
            from cm3.retrieval.memory import Memory

            # Opened without its encoder first, to read which one that is; opening maps files and reads no vectors.
            memory = Memory.open(self._memory)
            self._check(Path(self._memory))
            self._memory = memory
        encoder, asked = self._encoder, self._encoder is not None
        if encoder is None:
            kind, _, name = self._memory.encoder_name.partition(":")
            encoder = name if kind == "clip" and "/" in name else self._own
        if encoder is None:
            raise RequestError(
                f"memory {str(self._memory.folder)!r}: was made with encoder {self._memory.encoder_name}, and this "
                "model has none; give its folder, encoder=FOLDER (--encoder FOLDER)"
            )
        if isinstance(encoder, str | Path):
            loaded = load_encoder(encoder, device=self._device, fetch=asked)
            self._check(Path(encoder))
            encoder = loaded
        self._encoder = encoder
        return self._memory, encoder


def check_number(name: str, k: int) -> int:
    """Return a number of documents. Raises `RequestError` for one outside 0..3, and for what is no integer."""
    return whole_number(name, k, 0, MOST, RequestError, "documents, as in training")


_AND = (
    r"and|with|above|below|under|over|beside|near|behind|(?:to the )?(?:left|right) of|next to|(?:in front|on top) of"
)
_NEW = re.compile(
    rf"\s*(?:[,;]|\b(?:{_AND})\b)(?:\s+(?:{_AND})\b)?\s+(?=(?:an?|another|one|two|three|four|some)\s)", re.I
)
_WHERE = re.compile(r"(?:on|in|at|under|over|above|below|behind|beside|near|with|from|by)\b", re.I)


def mentions(text: str) -> list[str]:
    """Split a prompt where it names another thing: after a comma, "and" or a word of place, by "a", "another" or a
    number.

    "a panda above a cat, and a robot, on a mint ground" -> "a panda, on a mint ground", "a cat, on a mint ground", "a
    robot, on a mint ground". Where all of it is, told before the first thing or after a comma behind the last, goes
    with each; what else is no thing stays with the thing beside it.
    """
    parts = _NEW.split(text)
    if len(parts) > 1 and _WHERE.match(parts[0]):
        return [f"{thing}, {parts[0]}" for thing in parts[1:]]
    last, *behind = parts[-1].split(",")
    if len(parts) > 1 and behind and all(_WHERE.match(where.strip()) for where in behind):
        return [f"{one},{','.join(behind)}" for one in (*parts[:-1], last)]
    return parts


def query_of(prompt: Document) -> Document:
    """Return the parts that a prompt is searched with: its words as one text, and its pictures; perhaps no part at all.

    Gaps are left out. A picture's own gap is painted over in the mean colour around it, for what is to be drawn anew
    should not be searched for; a picture that is all gap is left out.
    """
    words = " ".join(" ".join(p.text for p in prompt.parts if isinstance(p, Text)).split())
    pictures = [shown for image in prompt.images if (shown := _without_gap(image)) is not None]
    parts: list[Part] = [Text(words)] if words else []
    return Document((*parts, *pictures), id=prompt.id, source=prompt.source)


@dataclass(frozen=True, eq=False)
class Context:
    """The documents before one prompt: `tokens`, to stand after its `</s>`, of the documents `used`, in this order.

    `left_out` are those for which there was no room.
    """

    tokens: Tokens
    used: tuple[Retrieved, ...] = ()
    left_out: tuple[Retrieved, ...] = ()


def layout(found: Sequence[Retrieved], documents: Sequence[Tokens], vocab: Vocab, room: int) -> Context:
    """Lay out what was found, `documents` being each as a whole `</s> ... </s>`, to stand before a prompt.

    Where `room` tokens do not hold all, those of `most_relevant` are used. Raises `RequestError` where not one fits.
    """
    lengths = [d.length for d in documents]
    used = most_relevant(lengths, [f.score for f in found], room, saved(vocab))
    if found and not used:
        raise RequestError(
            f"documents: the shortest found takes {min(lengths) - saved(vocab)} tokens, and the prompt leaves "
            f"{max(room, 0)} of this model's context; shorten the prompt, lower max_tokens (of an interleaved answer "
            "pictures too), or ask for no documents"
        )
    left_out = tuple(f for i, f in enumerate(found) if i not in used)
    return Context(context_of([documents[i] for i in used], vocab), tuple(found[i] for i in used), left_out)


def attribution(found: Sequence[Retrieved]) -> list[dict[str, Any]]:
    """List the documents that were drawn on, as JSON has them: id, score, by, source, license and text of each."""
    return [
        {
            "id": f.document.id,
            "score": None if math.isnan(f.score) else round(float(f.score), 4),
            "by": f.by,
            "source": f.document.source,
            "license": str(f.document.meta.get("license", "")),
            "text": f.document.text,
        }
        for f in found
    ]


def _in_turn(found: Sequence[Sequence[Retrieved]], k: int) -> list[Retrieved]:
    """Return `k` documents of several searches, none twice: the first of each, the best first, then the second."""
    chosen: dict[str, Retrieved] = {}
    for row in zip_longest(*found):
        for one in sorted((one for one in row if one), key=lambda one: -one.score):
            chosen.setdefault(one.document.id, one)
    return list(chosen.values())[:k]


def _given(one: Document | Retrieved) -> Retrieved:
    found = one if isinstance(one, Retrieved) else Retrieved(one, math.nan, "hand")
    document = found.document
    if document.has_gap or not (document.text.strip() or document.images):
        raise RequestError(
            f"documents: {document.id or 'one of them'!r} has {'a gap' if document.has_gap else 'no part'}; give whole "
            "documents, of text, pictures, or both"
        )
    return found


def _without_gap(image: Image) -> Image | None:
    if image.gap is None:
        return image
    x0, y0, x1, y1 = image.gap
    pixels = np.array(image.pixels.convert("RGB"))
    around = np.ones(pixels.shape[:2], dtype=bool)
    around[y0:y1, x0:x1] = False
    if not around.any():
        return None
    pixels[~around] = pixels[around].mean(axis=0).round()
    return Image(PIL.Image.fromarray(pixels))
