"""Templates as the paper prints them, used both ways: fields to a document, and a document back to its fields.

    Question: {question} Answer: {answer}. <break> {image}

    <break>      the next part; a part of one picture field is that picture
    [newline]    a line's end
    {question}   a text, or one of the pictures of `PICTURES`

A template is laid out as what stands before the answer, the answer, and what stands after it. So the prompt that a user
asks with is the very training example with a hole in the answer's place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from cm3.document import Document, Gap, Image, Part, Text
from cm3.errors import DataError

PICTURES = ("image", "image1", "image2", "edge", "seg", "hed", "pose", "depth", "normal", "scribble")
"""Fields that are pictures; every other one is a text."""
Values = Mapping[str, str | Image]
"""A value for each field."""


class Field(NamedTuple):
    """A place to be filled in a template."""

    name: str


class Laid(NamedTuple):
    """A document in three: `answer` is what the model is to give."""

    before: tuple[Part, ...]
    answer: Text | Image
    after: tuple[Part, ...]

    @property
    def whole(self) -> tuple[Part, ...]:
        """Return the parts of the finished document."""
        return joined((*self.before, self.answer, *self.after))

    @property
    def open(self) -> tuple[Part, ...]:
        """Return the parts of the prompt, a hole in the answer's place."""
        return (*self.before, Gap("text" if isinstance(self.answer, Text) else "image"), *self.after)


@dataclass(frozen=True)
class Template:
    """A template and where it is printed: a table, figure or section of the paper, or "ours"."""

    text: str
    where: str = "Table 5"

    @cached_property
    def segments(self) -> tuple[tuple[str | Field, ...], ...]:
        """Return its parts, each as literal text and fields in turn."""
        made = []
        for part in self.text.split("<break>"):
            split = re.split(r"\{(\w+)\}", re.sub(r" *\[newline\] *", "\n", part.strip(" ")))
            made.append(tuple(Field(p) if i % 2 else p for i, p in enumerate(split) if i % 2 or p))
        return tuple(made)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Return the names of the fields, in order."""
        return tuple(piece.name for segment in self.segments for piece in segment if isinstance(piece, Field))

    def lay_out(self, values: Values, gives: Collection[str], *, plain: bool = False) -> Laid:
        """Return the parts for `values`; the answer is all from the first to the last field of `gives`, in one part.

        In the `plain` layout pictures stand before a text that holds the answer, and the answer goes on to the text's
        end. `values` has every field (`Task` sees to it), those of `gives` too; for a prompt any value will do there.
        """
        segments = list(self.segments)
        before: list[Part] = []
        after: list[Part] = []
        holds = next(i for i, s in enumerate(segments) if any(isinstance(p, Field) and p.name in gives for p in s))
        text = not _is_picture(segments[holds])
        if plain and text:
            segments = [*segments[:holds], *segments[holds + 1 :], segments[holds]]
            holds = len(segments) - 1
        answer: Text | Image | None = None
        for i, segment in enumerate(segments):
            parts: list[Part] = [_part(piece, values) for piece in segment]
            if i != holds:
                (before if i < holds else after).extend(parts)
                continue
            named = [j for j, piece in enumerate(segment) if isinstance(piece, Field) and piece.name in gives]
            first, last = named[0], len(parts) - 1 if plain and text else named[-1]
            before += parts[:first]
            answer, after = _one(parts[first : last + 1]), parts[last + 1 :]
        assert answer is not None  # `gives` names a field
        return Laid(joined(before), answer, joined(after))

    def read(self, document: Document) -> dict[str, str | Image]:
        """Return the fields of a document that this template made, in either layout. Texts are stripped.

        Raises `DataError` for a document of another form. Where a field holds the very words that follow it in the
        template, it ends at the last of them.
        """
        parts = joined(document.parts)
        texts = iter([part.text for part in parts if isinstance(part, Text)])
        pictures = iter([part for part in parts if isinstance(part, Image)])
        found: dict[str, str | Image] = {}
        try:
            for segment in self.segments:
                if _is_picture(segment):
                    found[segment[0].name] = next(pictures)  # type: ignore[union-attr]
                    continue
                match = self._pattern(segment).fullmatch(next(texts).strip())
                if match is None:
                    raise StopIteration
                found |= {name: value.strip() for name, value in match.groupdict().items()}
        except StopIteration:
            raise DataError(f"document {document.id!r}: is not of the template {self.text!r}") from None
        if next(texts, None) is not None or next(pictures, None) is not None:
            raise DataError(f"document {document.id!r}: has more parts than the template {self.text!r}")
        return found

    @staticmethod
    def _pattern(segment: tuple[str | Field, ...]) -> re.Pattern[str]:
        return re.compile("".join(f"(?P<{p.name}>.*)" if isinstance(p, Field) else re.escape(p) for p in segment), re.S)


def joined(parts: Collection[Part]) -> tuple[Part, ...]:
    """Return the same parts, with texts that stand side by side as one."""
    made: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and made and isinstance(made[-1], Text):
            made[-1] = Text(made[-1].text + part.text)
        else:
            made.append(part)
    return tuple(made)


def _is_picture(segment: tuple[str | Field, ...]) -> bool:
    return len(segment) == 1 and isinstance(segment[0], Field) and segment[0].name in PICTURES


def _part(piece: str | Field, values: Values) -> Part:
    value = piece if isinstance(piece, str) else values[piece.name]
    return Text(value) if isinstance(value, str) else value


def _one(parts: list[Part]) -> Text | Image:
    (part,) = joined(parts)
    assert not isinstance(part, Gap)
    return part
