"""Shares of the tasks in the lessons of a model of stickers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from cm3.errors import ConfigError


@dataclass(frozen=True)
class TaskShares:
    """Shares of the sequences by task, in any unit; `plain` is documents as in pretraining. Raises `ConfigError`."""

    plain: float = 20.0
    """Documents as in pretraining."""
    edit: float = 14.0
    """A picture changed as an instruction says."""
    boxes: float = 7.0
    """A sheet from its stickers and their boxes."""
    canny: float = 5.0
    """A sheet from its edges."""
    scribble: float = 5.0
    """A sheet from a scribble."""
    segmentation: float = 5.0
    """A sheet from its map of segments."""
    depth: float = 5.0
    """A sheet from its map of depth."""
    segment: float = 6.0
    """A map of what a picture shows."""
    coco_captions: float = 5.0
    """A caption."""
    image_paragraph: float = 5.0
    """A description in several sentences."""
    vqa2: float = 12.0
    """An answer to a question."""
    visdial: float = 5.0
    """A conversation about a picture."""
    scienceqa: float = 6.0
    """A question with choices, and the reason of its answer."""
    loose: float = 0.0
    """A sheet from words that leave some of it open (`cm3.stickers.sentences.loosely`, and wishes). No task of
    instructions: it is what one asks for in passing, and no caption that a model should learn to write."""
    words: float = 0.0
    """A sheet told in words (cm3/stickers/data/word_source.py), for what belongs where. No task either."""
    holes: float = 0.0
    """A caption and its picture, with a piece of it or all of it missing. No task either: prompts have holes."""
    regions: float = 0.0
    """A picture with a region missing, after the words or the thought of all of it. No task either, for that reason."""

    def __post_init__(self) -> None:
        for name, share in dataclasses.asdict(self).items():
            if not (np.isfinite(share) and share >= 0):
                raise ConfigError(f"mix.{name}={share}: is a share, must be a number of 0 or more")
        if not sum(dataclasses.asdict(self).values()) > 0:
            raise ConfigError("mix: the shares sum to nothing; give a task one")

    @property
    def shares(self) -> dict[str, float]:
        """Return shares that sum to 1, by name."""
        given = dataclasses.asdict(self)
        return {name: share / sum(given.values()) for name, share in given.items()}
