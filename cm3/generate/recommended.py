"""Settings of sampling by kind of request: the bundle's recommendations, the paper's, and what the caller says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from cm3.engine.request import Sampling
from cm3.errors import CheckpointError
from cm3.files import build

PAPER: dict[str, dict[str, Any]] = {
    "image": {},
    "region": {},
    "text": {},
    "edit": {"guidance": 7.5, "image_guidance": 1.5},
    "control": {"guidance": 3.0},
    "segment": {"guidance": 1.0},
    "answer": {"temperature": 0.0},
    "thought": {},
}
"""By kind, the scales of section 4.1. A map and an answer have none there: the one is drawn unguided, the other is the
likeliest at each token, as there is one right answer."""
LIKE_IMAGE = ("edit", "control", "segment")
"""Kinds that start from what a bundle recommends for `image`."""
KINDS = tuple(PAPER)
"""Kinds of request, each with recommended sampling of its own in a bundle: a picture, parts of one, a text, an
edited picture, one that follows a control image, a segmentation map, the answer to a question, and a thought before a
picture or an answer (cm3/tasks/thought.py)."""
MOST = 1024
"""Most candidates that a bundle may recommend for each that is kept."""
Treatment = Literal["kept", "dropped"]
UNCONDITIONAL: tuple[Treatment, ...] = get_args(Treatment)
"""Uses of retrieved documents in the stream to guide away from. The first where a bundle recommends neither."""


class Recommended:
    """A bundle's recommended sampling."""

    def __init__(self, name: str, sampling: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise `CheckpointError` for a kind, a setting or a treatment of documents that there is not."""
        for kind in sampling:
            if kind not in KINDS:
                raise CheckpointError(f"bundle {name!r}: sampling.{kind}: is no kind; the kinds are {', '.join(KINDS)}")
        self._values: dict[str, dict[str, Any]] = {}
        self.treatment: dict[str, Treatment] = {}
        """By kind, what becomes of retrieved documents in the unconditional stream."""
        self.candidates: dict[str, int] = {}
        """By kind, how many are made for each that is kept."""
        self.think: dict[str, bool] = {}
        """By kind, whether a thought comes first."""
        for kind, paper in PAPER.items():
            base = sampling.get("image", {}) if kind in LIKE_IMAGE else {}
            values = {**base, **paper, **sampling.get(kind, {})}
            self.treatment[kind] = values.pop("unconditional", UNCONDITIONAL[0])
            candidates = values.pop("candidates", 1)
            if type(candidates) is not int or not 1 <= candidates <= MOST:
                raise CheckpointError(
                    f"bundle {name!r}: sampling.{kind}.candidates={candidates!r:.60}: must be a whole number from 1 to "
                    f"{MOST}"
                )
            self.candidates[kind] = candidates
            self.think[kind] = values.pop("think", False)
            if type(self.think[kind]) is not bool:
                raise CheckpointError(
                    f"bundle {name!r}: sampling.{kind}.think={self.think[kind]!r:.60}: must be true or false"
                )
            if "seed" in values:
                raise CheckpointError(f"bundle {name!r}: sampling.{kind}.seed: is a request's own; take it out")
            build(Sampling, values, f"bundle {name!r}: sampling.{kind}")
            self._values[kind] = values
            if self.treatment[kind] not in UNCONDITIONAL:
                raise CheckpointError(
                    f"bundle {name!r}: sampling.{kind}.unconditional={self.treatment[kind]!r:.60}; must be "
                    f"{' or '.join(map(repr, UNCONDITIONAL))}"
                )

    def sampling(self, kind: str, seed: int, given: Mapping[str, Any]) -> Sampling:
        """Return the settings for a kind: those `given`, unless None, before those recommended."""
        values = self._values[kind] | {k: v for k, v in given.items() if v is not None}
        if given.get("contrast") is not None and given.get("guidance") is None:
            values.pop("guidance", None)  # the contrastive score itself
            if given.get("image_guidance") is None:
                values.pop("image_guidance", None)
        return Sampling(**values, seed=seed)


def unguided(sampling: Sampling) -> Sampling:
    """Return the same settings for a single stream."""
    return replace(sampling, guidance=None, image_guidance=None, contrast=None)
