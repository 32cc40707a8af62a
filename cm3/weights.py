"""Weights on their way in: one reader of the files that hold them, and one rule for every network.

A network whose weights hold a NaN draws black, says nothing or ranks at random, and no error tells why. So whatever
loads weights, of a tokenizer, a decoder, an encoder, a critic or a metric, has them looked through here first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, load_file
from torch import Tensor

from cm3.errors import CheckpointError
from cm3.files import said


def read_weights(path: str | Path, what: str) -> dict[str, Tensor]:
    """Read a safetensors file on the processor. `what` names whose weights they are in the message.

    Raises `CheckpointError` for a file that is missing or damaged, and as `check_weights`.
    """
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors raises its own kinds
        raise CheckpointError(f"{what}: {Path(path).name} cannot be read ({said(error)}); restore it") from error
    check_weights(tensors, what)
    return tensors


def parse_weights(data: bytes, what: str) -> dict[str, Tensor]:
    """Read the bytes of a safetensors file; see `read_weights`."""
    try:
        tensors = load(data)
    except Exception as error:  # safetensors raises its own kinds
        raise CheckpointError(f"{what}: the weights cannot be read ({said(error)}); restore them") from error
    check_weights(tensors, what)
    return tensors


def check_weights(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise `CheckpointError`, naming `what` and the tensor, where a value is NaN or infinite."""
    if name := not_finite(tensors):
        raise CheckpointError(
            f"{what}: {name} has values that are not finite, of a training that diverged or a damaged file; restore "
            "it, or train it again"
        )


@torch.no_grad()
def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor with a value that is NaN or infinite; empty where there is none."""
    return next((n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())), "")
