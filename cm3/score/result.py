"""The result of a scorer: figures, what they were computed of, and what each item adds to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """Figures of a set of predictions.

    A figure that has `items` is their mean, so that its interval and its difference from another result's can be
    estimated by drawing items anew.
    """

    figures: Mapping[str, float]
    """Figure -> value, in the unit that its scorer names."""
    n: int
    """Number of items that the figures are of."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Whatever a figure depends on: protocol, tokenizer, crop, features and the like; plain values."""
    warnings: tuple[str, ...] = ()
    """One line each on what a reader has to know of the figures; they stay in the result."""
    items: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Figure -> id of an item -> its value."""
