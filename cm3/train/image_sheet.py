"""A sheet to look at: pictures over what an image tokenizer makes of them."""

from __future__ import annotations

import io
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cm3.files import write


def over(originals: Tensor, reconstructions: Tensor, columns: int = 8) -> Image.Image:
    """Return a sheet of the first `columns` originals over their reconstructions, white between them."""
    gap = 4
    rows = [
        F.pad(x[:columns].detach().float().clamp(-1, 1), (0, gap, 0, gap), value=1.0)
        for x in (originals, reconstructions)
    ]
    array = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)  # (c, 2 h, columns w)
    pixels = ((array + 1) * 127.5).round().byte().cpu().permute(1, 2, 0).numpy()[:-gap, :-gap]
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])


def write_sheet(path: Path, originals: Tensor, reconstructions: Tensor, columns: int = 8) -> None:
    """Write the sheet `over` as a PNG."""
    made = io.BytesIO()
    over(originals, reconstructions, columns).save(made, "PNG")
    write(path, made.getvalue())
