"""Measures of an image tokenizer: PSNR, the use of its codes, and a sheet to look at."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cm3.errors import DataError
from cm3.files import write
from cm3.model.vqgan import VQGAN


def psnr(pixels: Tensor, target: Tensor) -> Tensor:
    """Return PSNR in dB of each image (b,): both clamped and rounded to 8 bits first, peak 255; at most 99 (equal
    images)."""
    a, b = (((x.detach().float().clamp(-1, 1) + 1) * 127.5).round() for x in (pixels, target))
    error = (a - b).square().flatten(1).mean(1)
    return (20 * math.log10(255.0) - 10 * error.clamp_min(1e-12).log10()).clamp_max(99.0)


def usage(histogram: Tensor) -> dict[str, float]:
    """Return the share of the codes seen at all, and the perplexity of their frequencies."""
    p = histogram.double() / histogram.sum().clamp_min(1)
    entropy = -(p * p.clamp_min(1e-30).log()).sum()
    return {"codes_used": float((histogram > 0).double().mean()), "perplexity": float(entropy.exp())}


@torch.no_grad()
def evaluate_image_tokenizer(vqgan: VQGAN, batches: Iterable[Tensor]) -> dict[str, float]:
    """Reconstruct batches (b, 3, H, W) in [-1, 1].

    Returns `psnr_db` (the mean over images of each image's PSNR), `codes_used` (share of the codebook, 0..1) and
    `perplexity` of the codes over everything seen. Raises DataError where there is no image at all.
    """
    values: list[Tensor] = []
    histogram = torch.zeros(vqgan.config.codes, dtype=torch.int64)
    training = vqgan.training
    vqgan.eval()
    device = next(vqgan.parameters()).device
    for pixels in batches:
        pixels = pixels.to(device)
        codes = vqgan.encode(pixels)
        values.append(psnr(vqgan.decode(codes), pixels).cpu())
        histogram += torch.bincount(codes.flatten().cpu(), minlength=vqgan.config.codes)
    vqgan.train(training)
    if not values:
        raise DataError("no images to evaluate the image tokenizer on; give at least one batch")
    return {"psnr_db": float(torch.cat(values).mean()), **usage(histogram)}


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
