"""Lines of a file of prompts, as `cm3 generate --prompts` reads them (docs/batch.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cm3.document import Box
from cm3.generate.settings import SAMPLED, Settings


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the file: a prompt, a task and its fields, or a whole document, and settings. None is what the command
    says. Of a document, and of a task with options, is told how likely they are, and nothing is drawn."""

    id: str | int | None = None
    prompt: str | list[Any] | None = None
    task: str | None = None
    request: dict[str, Any] | None = None
    options: tuple[str, ...] | None = None
    document: list[Any] | None = None
    template: int | str = 0
    plain: bool = False
    n: int | None = None
    seed: int | None = None
    guidance: float | None = None
    image_guidance: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    contrast: str | None = None
    k: int | None = None
    alpha: float | None = None
    amateur_temperature: float | None = None
    max_tokens: int | None = None
    pictures: int | None = None
    candidates: int | None = None
    think: bool | None = None
    retrieve: int | None = None
    unconditional: str | None = None


SETTINGS = tuple(name for name in Settings.__annotations__ if name in Line.__annotations__)
"""Settings of `CM3Leon.generate` that a line may have, but for its number and seed."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of a prompt that is no string: a gap, or a picture, perhaps with a box to fill."""

    gap: Literal["text", "image", "interleaved"] | None = None
    image: str | None = None
    box: Box | None = None

    def __post_init__(self) -> None:
        if (self.gap is None) == (self.image is None) or (self.box is not None and self.image is None):
            raise ValueError(
                'must be {"gap": "text"}, {"gap": "image"}, {"gap": "interleaved"}, or {"image": FILE}, perhaps with '
                'its "box"'
            )


class Asked(NamedTuple):
    """A line that is understood, with the settings of the command where it has none of its own."""

    at: int
    line: Line
    n: int
    seed: int
    settings: dict[str, Any]

    @property
    def judged(self) -> bool:
        """Tell whether the line gives all, and asks how likely it is."""
        return self.line.document is not None or self.line.options is not None

    @property
    def alike(self) -> str:
        """Return the same for lines that can be laid out in one call, each to be sampled in its own way."""
        return json.dumps([self.line.task, self.line.template, self.line.plain, self.shared], sort_keys=True)

    @property
    def own(self) -> dict[str, Any]:
        """Return the settings of how to sample."""
        return {name: value for name, value in self.settings.items() if name in SAMPLED}

    @property
    def shared(self) -> dict[str, Any]:
        """Return the other settings."""
        return {name: value for name, value in self.settings.items() if name not in SAMPLED}


class Sample(NamedTuple):
    """One of the answers to a line: its number, and its seed."""

    asked: Asked
    number: int
    seed: int
