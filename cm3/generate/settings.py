"""The settings of a request by name, for a type checker and at run time: a misspelt one is refused in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from cm3.engine.request import Sampling
from cm3.errors import ConfigError, RequestError, did_you_mean
from cm3.generate.recommended import Treatment
from cm3.retrieval.embed import Encoder
from cm3.vocab import Grammar

if TYPE_CHECKING:
    from cm3.retrieval.memory import Memory

Progress = Callable[[int, int], None]


class Loading(TypedDict, total=False):
    """Settings that `CM3Leon.load` takes besides a name; see the class."""

    memory: str | Path | Memory | None
    encoder: str | Path | Encoder | None
    max_streams: int
    device: str | torch.device | None
    dtype: str | torch.dtype | None
    cache_gb: float | None
    cache_dtype: str | torch.dtype
    parallel: int | str
    keep_gb: float
    tp: int


class Settings(TypedDict, total=False):
    """Settings of every request; see `CM3Leon.generate`. How to sample comes first, as `cm3.engine.request.Sampling`
    has it; None leaves a setting as the bundle recommends it."""

    guidance: float | None
    image_guidance: float | None
    temperature: float | None
    top_p: float | None
    contrast: str | None
    k: int | None
    alpha: float | None
    amateur_temperature: float | None
    max_tokens: int
    pictures: int
    candidates: int | None
    retrieve: int
    documents: Sequence[Any] | None
    unconditional: Treatment | None
    think: bool | None
    progress: Progress | None


class Options(Settings, total=False):
    """The same of `generate`, with the task that a prompt was laid out for."""

    kind: str | None


SAMPLED = frozenset(f.name for f in fields(Sampling)) - {"seed"}
"""Names of the settings that say how to sample."""


def check_names(given: Iterable[str], of: type, *beside: str) -> None:
    """Raise `ConfigError` for the first name that is not of a kind of settings above.

    `beside`: arguments that are given beside the settings, which may be what was meant.
    """
    known = tuple(of.__annotations__)
    for name in given:
        if name not in known:
            near = did_you_mean(str(name), (*known, *beside))
            raise ConfigError(f"{name}: is no setting; there are {', '.join((*beside, *known))}.{near}")


def sampled(options: Mapping[str, Any], own: Mapping[str, Any], grammar: Grammar) -> dict[str, Any]:
    """Return how to sample for a prompt: its `own` settings before those of all. Raises `RequestError` for one of its
    own that is no such setting, and for `image_guidance` of what is no edit."""
    if others := sorted(own.keys() - SAMPLED):
        raise RequestError(f"each: {others[0]} is no setting of how to sample; give it for all prompts")
    both = {**options, **own}
    settings = {name: both[name] for name in SAMPLED & both.keys() if both[name] is not None}
    if "image_guidance" in settings and options.get("kind") != "edit" and grammar == "cm3":
        raise RequestError(f"image_guidance={both['image_guidance']}: is for editing; ask with kind='edit'")
    return settings
