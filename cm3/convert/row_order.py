"""In which order rows of queries and keys lie, halves or pairs, told from the numbers of a trained model alone.

Rotary positions turn the two numbers of a pair against each other: rows i and i + k/2 of a head where they lie in
halves, 2f and 2f + 1 where they lie in pairs. A wrong guess is no error anywhere, and the model talks nonsense. Files
do not say which, but training leaves marks:

    rows    A score holds q[a] k[b] - q[b] k[a] for the two rows of a pair and for no others, times the sine of their
            distance. So W_q[a].W_k[b] - W_q[b].W_k[a] is larger for partners than for rows of neighbouring
            frequencies. Both orders are tried against the neighbours that they would have, on the frequencies that
            turn fast: the true one stands out, the other does not, and of drawn weights none.
    norms   The weights of a query-key norm are large where the rows that they scale are long. So a norm correlates
            with the lengths of its rows, unless the two lie in different orders, as some converters left them.

Each is measured in every head, and its mean is given in standard errors. Over eight models trained here, of 16 to 24
heads of 64 numbers, in both orders: rows 3.6 to 6.0, norms 11 to 22, each with the right sign; a hundred drawn models
of that size 3.0 at most but for one of 4.0, a model after 50 steps 1.3. Larger models have more heads to tell by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LIKELY, SURE = 3.5, 6.0
"""Standard errors from which an order is called likely, and sure."""
HEADS = 8
"""Fewest heads that are judged by."""
LAYERS = 8
"""Most layers that are looked at, evenly spread."""

Order = Literal["halves", "pairs"]


@dataclass(frozen=True)
class Judged:
    """An answer, None where it cannot be told, and how far it is from chance, in standard errors."""

    answer: str | None
    errors: float

    @property
    def sure(self) -> str:
        """Return how sure it is, in words."""
        return "cannot tell" if self.answer is None else "sure" if self.errors >= SURE else "likely"

    @classmethod
    def of(cls, each: Sequence[float], over: str, under: str) -> Judged:
        """Judge by a number of each head: `over` where their mean is over 0 beyond chance, `under` where below."""
        values = torch.tensor([x for x in each if math.isfinite(x)], dtype=torch.float64)
        spread = float(values.std()) if len(values) > 1 else 0.0
        if len(values) < HEADS or spread <= 0:
            return cls(None, 0.0)
        errors = float(values.mean()) / (spread / math.sqrt(len(values)))
        answer = None if abs(errors) < LIKELY else over if errors > 0 else under
        return cls(answer, round(abs(errors), 1))


@dataclass(frozen=True)
class Rows:
    """The rows of queries and keys of one layer, (h k, d) and (g k, d), and their norms' weights (n, k), or None."""

    query: Tensor
    key: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None


@dataclass(frozen=True)
class RowOrder:
    """`rows`: "halves" or "pairs". `norms`: "as rows", or "other" where they lie in the other order."""

    rows: Judged
    norms: Judged


def look_at_rows(layers: int, width: int, read: Callable[[int], Rows]) -> RowOrder:
    """Judge the order of a model's rows, and that of its norms. `read` gives those of a layer; `width` is a head's."""
    chosen = sorted({round(i * (layers - 1) / max(min(layers, LAYERS) - 1, 1)) for i in range(min(layers, LAYERS))})
    coupled: list[float] = []
    fitting: dict[Order, list[float]] = {"halves": [], "pairs": []}
    for layer in chosen:
        rows = read(layer)
        query, key = (part.float().reshape(-1, width, part.shape[-1]) for part in (rows.query, rows.key))
        with torch.no_grad():
            coupled += _coupled(query, key.repeat_interleave(len(query) // len(key), 0))
            for heads, norm in ((query, rows.query_norm), (key, rows.key_norm)):
                if norm is not None:
                    for order in fitting:
                        fitting[order] += _fitting(heads, norm.float().reshape(-1, width), order)
    found = Judged.of(coupled, "halves", "pairs")
    if found.answer is None:
        return RowOrder(found, Judged(None, 0.0))
    return RowOrder(found, Judged.of(fitting["halves" if found.answer == "halves" else "pairs"], "as rows", "other"))


def _coupled(query: Tensor, key: Tensor) -> list[float]:
    """Return, for each head, how far partners by halves stand out more than partners by pairs. (h, k, d)."""
    half = query.shape[1] // 2
    fast = 5 * half // 8
    if fast < 2:
        return []
    products = query @ key.transpose(1, 2)  # (h, k, k)
    lengths = query.norm(dim=2)[:, :, None] * key.norm(dim=2)[:, None, :]
    turning = (products - products.transpose(1, 2)).square() / (lengths * lengths.transpose(1, 2)).clamp_min(1e-30)
    own, next_ = torch.arange(fast), torch.arange(fast - 1)
    faster = torch.linspace(1.5, 0.5, fast)  # sines of more distances
    across = torch.cat([turning[:, next_, half + next_ + 1], turning[:, next_ + 1, half + next_]], 1)
    halves = (turning[:, own, half + own] * faster).mean(1), across.mean(1)
    beside = turning[:, 2 * next_ + 1, 2 * next_ + 2]
    pairs = (turning[:, 2 * own, 2 * own + 1] * faster).mean(1), beside.mean(1)
    by_halves, by_pairs = (((a + 1e-30) / (b + 1e-30)).log() for a, b in (halves, pairs))
    return (by_halves - by_pairs).tolist()


def _fitting(heads: Tensor, norm: Tensor, order: Order) -> list[float]:
    """Return, for each head of rows in `order`, how much better its norm fits as it lies than brought from the other
    order."""
    width = norm.shape[1]
    turned = norm.reshape(-1, *((width // 2, 2) if order == "halves" else (2, width // 2))).transpose(1, 2)
    each = len(heads) // len(norm)
    lengths = heads.norm(dim=2)
    as_it_lies, other = (_correlation(lengths, n.reshape(-1, width).repeat_interleave(each, 0)) for n in (norm, turned))
    return (as_it_lies - other).tolist()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-12)
