"""Products with weights in int8 and all else in float, as a GPU makes them.

    w = codes * scale        codes int8 (outside, inside), a scale for each output, as int8.py makes them

A few tokens go to torch's own operator, which reads the codes as they are and sums in float32. More, as of a prompt, go
to a product of bfloat16 matrices, which holds whole numbers up to 127 exactly; the codes are turned into it for that
product alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cm3.errors import ConfigError

FEW = 16
"""Tokens, at most, that go to the operator: as many as a block of its kernel takes side by side."""


def reads_codes(device: torch.device) -> bool:
    """Tell whether a decoder in int8 on a device multiplies by its codes as they are, and packs none."""
    return device.type == "cuda"


def weighed(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """Return the products, float32 (n, outside), of tokens float32 (n, inside) with a weight in int8."""
    if len(x) <= FEW:
        # CUDA's kernel takes rows to lie one after another, and does not look.
        found: Tensor = torch.ops.aten._weight_int8pack_mm(x.contiguous(), codes, scales)
        return found
    return F.linear(x.bfloat16(), codes.bfloat16()).float().mul_(scales)


def check_kernel(device: torch.device) -> None:
    """Raise `ConfigError` where this torch has no kernel of the operator for a kind of device."""
    key = device.type.upper()
    if not torch._C._dispatch_has_kernel_for_dispatch_key("aten::_weight_int8pack_mm", key):
        raise ConfigError(
            f"dtype='int8': torch {torch.__version__} has no operator _weight_int8pack_mm for {device.type}; install "
            f"a build of torch for {device.type}, or take bfloat16"
        )
