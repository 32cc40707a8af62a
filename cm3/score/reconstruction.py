"""Pictures that come back from an image tokenizer: PSNR, SSIM, LPIPS, rFID, and the use of its codes.

All are of pictures at the tokenizer's size, rounded to 8 bits as they would be saved. LPIPS wants the two files of its
weights, rFID those of its features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from cm3.errors import DataError
from cm3.model.vqgan import VQGAN
from cm3.score.result import Result

if TYPE_CHECKING:
    from cm3.model.lpips import LPIPS
    from cm3.score.features import Features

WINDOW, SIGMA = 11, 1.5
"""Side and deviation of SSIM's window, in pixels."""

Batches = Iterable[tuple[Sequence[str], Tensor]]
"""Ids of pictures and their pixels (b, 3, H, W) in [-1, 1]."""


def eight_bits(pixels: Tensor) -> Tensor:
    """Return pixels in [-1, 1] as whole numbers from 0 to 255, float32; values outside are clipped."""
    return ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round()


def psnr(pixels: Tensor, target: Tensor) -> Tensor:
    """Return PSNR in dB of each image (b,): both clamped and rounded to 8 bits first, peak 255; at most 99 (equal
    images)."""
    error = (eight_bits(pixels) - eight_bits(target)).square().flatten(1).mean(1)
    return (20 * math.log10(255.0) - 10 * error.clamp_min(1e-12).log10()).clamp_max(99.0)


def ssim(pixels: Tensor, target: Tensor) -> Tensor:
    """Return SSIM of each image (b,), at most 1: both rounded to 8 bits first (Wang et al. 2004).

    A Gaussian window of 11 x 11 pixels that lies whole in the picture, K1 0.01, K2 0.03; the mean over windows and
    colours. Raises `DataError` for pictures smaller than the window.
    """
    if min(pixels.shape[-2:]) < WINDOW:
        raise DataError(f"pictures of {tuple(pixels.shape[-2:])} pixels: SSIM needs {WINDOW} on each side")
    x, y = eight_bits(pixels).double().flatten(0, 1)[:, None], eight_bits(target).double().flatten(0, 1)[:, None]
    at = torch.arange(WINDOW, dtype=torch.float64, device=x.device) - WINDOW // 2
    weights = (-at.square() / (2 * SIGMA**2)).exp()
    weights /= weights.sum()

    def around(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))

    a, b = around(x), around(y)
    own, other, both = around(x * x) - a * a, around(y * y) - b * b, around(x * y) - a * b
    small, little = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = (2 * a * b + small) * (2 * both + little) / ((a * a + b * b + small) * (own + other + little))
    return found.flatten(1).mean(1).view(pixels.shape[:2]).mean(1)


def usage(histogram: Tensor) -> dict[str, float]:
    """Return the share of the codes seen at all, and the perplexity of their frequencies."""
    p = histogram.double() / histogram.sum().clamp_min(1)
    entropy = -(p * p.clamp_min(1e-30).log()).sum()
    return {"codes_used": float((histogram > 0).double().mean()), "perplexity": float(entropy.exp())}


@contextmanager
def _judged(vqgan: VQGAN) -> Iterator[None]:
    """Let a tokenizer run as it is used, and leave it as it was, whatever happens."""
    training = vqgan.training
    vqgan.eval()
    try:
        yield
    finally:
        vqgan.train(training)


@torch.no_grad()
def score_reconstruction(
    vqgan: VQGAN,
    batches: Batches,
    *,
    lpips: LPIPS | None = None,
    features: Features | None = None,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Encode and decode pictures.

    Returns `psnr_db`, `ssim` and with its weights `lpips`, the means over pictures (`items` has each); with features
    `rfid`, the FID of what comes back against what was given, and `rfid_bias`; `codes_used`, a share of the codebook,
    and `perplexity` of the codes over everything seen. Raises `DataError` where there is no picture, and for one whose
    id comes twice.
    """
    items: dict[str, dict[str, float]] = {"psnr_db": {}}
    warnings: list[str] = []
    seen = set[str]()
    histogram = torch.zeros(vqgan.config.codes, dtype=torch.int64)
    size = (0, 0)
    device = next(vqgan.parameters()).device
    if features is not None:
        from cm3.score.fid import Sampler

        given, back = (Sampler(features, name, keep=False) for name in ("originals", "reconstructions"))
    with _judged(vqgan):
        for ids, pixels in batches:
            for id in ids:
                if id in seen:
                    raise DataError(f"picture {id!r} comes twice; give each a name of its own")
                seen.add(id)
            pixels = pixels.to(device)
            codes = vqgan.encode(pixels)
            made = vqgan.decode(codes)
            values = {"psnr_db": psnr(made, pixels)}
            size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
            if min(size) >= WINDOW:
                values["ssim"] = ssim(made, pixels)
            if lpips is not None:
                values["lpips"] = lpips(eight_bits(made) / 127.5 - 1, eight_bits(pixels) / 127.5 - 1)
            if features is not None:
                for id, one, other in zip(ids, _pictures(pixels), _pictures(made), strict=True):
                    given.add(id, one)
                    back.add(id, other)
            for name, rows in values.items():
                items.setdefault(name, {}).update(zip(ids, rows.double().cpu().tolist(), strict=True))
            histogram += torch.bincount(codes.flatten().cpu(), minlength=vqgan.config.codes)
            if progress is not None:
                progress(len(items["psnr_db"]))
    n = len(items["psnr_db"])
    if not n:
        raise DataError("no images to evaluate the image tokenizer on; give at least one batch")
    figures = {name: float(np.mean([*values.values()])) for name, values in items.items()}
    if "ssim" not in items:
        warnings.append(f"ssim is left out: pictures of {size[0]} x {size[1]} pixels are smaller than its window")
    settings = {"size": list(size), "pixels": "8 bits", "codes": vqgan.config.codes, "factor": vqgan.config.factor}
    settings |= {"psnr_most": 99.0, "ssim": f"Gaussian window {WINDOW}, deviation {SIGMA}, K1 0.01, K2 0.03"}
    if features is not None:
        from cm3.score.fid import score_fid

        compared = score_fid(back.finish(), given.finish(), measures=["fid"])
        figures |= {f"r{name}": value for name, value in compared.figures.items()}
        settings["rfid"] = dict(compared.settings)
        warnings += compared.warnings
    return Result({**figures, **usage(histogram)}, n, settings, tuple(warnings), items)


def _pictures(pixels: Tensor) -> list[PIL.Image.Image]:
    shown = eight_bits(pixels).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [PIL.Image.fromarray(one) for one in shown]
