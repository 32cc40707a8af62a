"""Blocks of keys and values that stay after the requests that read them, for prompts that begin with them again.

    [ system prompt | question 1 | answer 1 ]                 blocks of 64 tokens, each once, by the hash of all tokens
                   \\[ question 2 | answer 2 | question 3 ]    up to its end: conversations share what they begin with

They are copied into rows and prefixes, so nothing attends to them, and they may go at any moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from cm3.engine.cache import Chain, Kept


class KeptBlocks:
    """Blocks by hash. Those used longest ago go first, and of one prompt the last: what stays can be begun with."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, Kept] = {}  # in order of use

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def memory(self) -> int:
        """Return the bytes that they take."""
        return sum(tensor.nbytes for kept in self._blocks.values() for tensor in kept)

    def use(self, chain: Chain) -> int:
        """Return how many of a prompt's first blocks there are. They are the last to go from now on."""
        count = next((i for i, key in enumerate(chain) if key not in self._blocks), len(chain))
        for key in reversed(chain[:count]):
            self._blocks[key] = self._blocks.pop(key)
        return count

    def block(self, key: bytes) -> Kept:
        """Return keys and values of a block, (layers, heads, 64, head_dim) each."""
        return self._blocks[key]

    def layer(self, chain: Chain, layer: int) -> Kept:
        """Return what blocks hold of a layer, as one: (heads, tokens, head_dim)."""
        blocks = [self._blocks[key] for key in chain]
        return [torch.cat([x[layer] for x in same], 1) for same in zip(*blocks, strict=True)]

    def put(self, key: bytes, layers: Sequence[Kept]) -> None:
        """Copy a block, of each layer (heads, 64, head_dim)."""
        self._blocks[key] = [torch.stack(same) for same in zip(*layers, strict=True)]

    def shrink(self, most: int) -> None:
        """Drop those used longest ago, until there are `most`."""
        for key in list(self._blocks)[: max(0, len(self._blocks) - most)]:
            del self._blocks[key]
