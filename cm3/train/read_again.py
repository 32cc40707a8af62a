"""Pictures as they come back from files: what an image tokenizer that shall read copies is trained on.

A picture that is drawn from codes has pixels of 8 bits, is saved as JPEG, is shown larger or smaller. Where a value
that is rounded to a code stands near the border of its interval, each of them gives another code.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cm3.model.quantizers import FSQ
from cm3.picture import copy_of

MARGIN = 0.2
"""How far from the middle of its interval, of 1 level, a value may stand without loss."""


def copied(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures (b, 3, H, W) in [-1, 1] as they come back from a JPEG file, or from another size and back."""
    made = []
    for picture in ((of_bytes(pixels.detach()) + 1.0) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy():
        which, how = torch.rand(2, generator=generator).tolist()
        made.append(np.asarray(copy_of(Image.fromarray(picture), which, how)))
    copies = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)
    return copies.to(pixels.device, pixels.dtype) / 127.5 - 1.0


def of_bytes(pixels: Tensor) -> Tensor:
    """Return pixels in [-1, 1] clipped and rounded to 8 bits, with the gradient of what is not clipped."""
    kept = pixels.clamp(-1.0, 1.0)
    return kept + ((kept.detach() + 1.0) * 127.5).round() / 127.5 - 1.0 - kept.detach()


def off_middle(fsq: FSQ, latents: Tensor, codes: Tensor) -> Tensor:
    """Return how far beyond `MARGIN` latents (b, levels, h, w) are, in levels, from the middles of codes (b, h, w)."""
    middles = fsq.lookup(codes) * fsq.half_width
    return ((fsq.bound(latents) - middles).abs() - MARGIN).clamp(min=0.0).mean()
