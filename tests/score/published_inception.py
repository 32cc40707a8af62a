"""A file of weights in the layout that pytorch-fid publishes FID's Inception in, drawn by numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cm3.score.inception import Inception


def drawn() -> dict[str, torch.Tensor]:
    """Weights by name, of about the size that keeps a signal through the network, and a classifier, which is not run.

    pytorch-fid's own network takes them all, strictly by name and shape.
    """
    rng = np.random.default_rng(7)
    found = {}
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Inception().state_dict().items()}
    for name, shape in sorted((shapes | {"fc.weight": (1008, 2048), "fc.bias": (1008,)}).items()):
        if name.endswith("num_batches_tracked"):
            found[name] = torch.zeros((), dtype=torch.int64)
            continue
        if name.endswith(("running_var", "bn.weight")):
            values = rng.uniform(0.8, 1.2, shape)
        elif name.endswith("conv.weight"):
            values = rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        else:
            values = rng.standard_normal(shape) * 0.1
        found[name] = torch.from_numpy(values.astype(np.float32))
    return found


def write(path: Path) -> Path:
    """Write such a file."""
    torch.save(drawn(), path)
    return path


def picture() -> np.ndarray:
    """A picture of 40 x 60 pixels, uint8: a ramp of each colour with some noise."""
    y, x = np.mgrid[:40, :60]
    ramps = np.stack([x * 4, y * 6, (x + y) * 2], -1)
    return (ramps + np.random.default_rng(1).integers(0, 16, ramps.shape)).clip(0, 255).astype(np.uint8)
