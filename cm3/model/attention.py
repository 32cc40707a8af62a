"""Who may look at whom in training: two implementations of `Attend` (cm3/model/decoder.py).

The engine's cache is a third, in cm3/engine/cache.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Causal:
    """Each token sees itself and what came before it in its row."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(b, h, s, k) each -> (b, h, s, k)."""
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Blocked:
    """Causal, and blocked at the borders between the documents packed into one row.

    `documents` (b, s) holds an integer for each token: tokens of one row see each other only where it is equal, and
    equal ones stand side by side. Each document is taken out of its row and attends as a row of its own, so the work
    is that of the documents and not of the square of the row. Exact: nothing is approximated or masked away.
    """

    def __init__(self, documents: Tensor) -> None:
        flat = documents.flatten()
        rows = torch.arange(documents.shape[0], device=flat.device).repeat_interleave(documents.shape[1])
        starts = torch.ones_like(flat, dtype=torch.bool)
        starts[1:] = (flat[1:] != flat[:-1]) | (rows[1:] != rows[:-1])
        which = starts.cumsum(0) - 1  # (n,) document of each token
        first = torch.nonzero(starts).squeeze(1)
        lengths = torch.bincount(which)
        self.count, self.longest = int(lengths.numel()), int(lengths.max())
        # Place of each token among (count, longest), and the token at each place; padding repeats a document's first.
        self.place = which * self.longest + (torch.arange(flat.numel(), device=flat.device) - first[which])
        source = first[:, None].expand(-1, self.longest).clone().flatten()
        source[self.place] = torch.arange(flat.numel(), device=flat.device)
        self.source = source

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(b, h, s, k) each -> (b, h, s, k)."""
        b, h, s, width = q.shape
        q, k, v = self._out(q), self._out(k), self._out(v)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        flat = out.transpose(1, 2).reshape(self.count * self.longest, h * width)
        return flat.index_select(0, self.place).view(b, s, h, width).transpose(1, 2)

    def _out(self, x: Tensor) -> Tensor:
        """(b, h, s, k) -> (count, h, longest, k)."""
        b, h, s, width = x.shape
        flat = x.transpose(1, 2).reshape(b * s, h * width).index_select(0, self.source)
        return flat.view(self.count, self.longest, h, width).transpose(1, 2)
