"""SSIM equals its formula, and an image tokenizer's result has what its parts say, picture by picture."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import scipy.signal
import tiny_model
import torch

from cm3.errors import DataError
from cm3.model.lpips import LPIPS
from cm3.score.features import NetworkFeatures, Preparation
from cm3.score.fid import sample, score_fid
from cm3.score.reconstruction import eight_bits, psnr, score_reconstruction, ssim, usage


def noise(n: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al., of one picture (3, h, w) of whole numbers 0..255, by a window in two dimensions."""
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for a, b in zip(x.astype(np.float64), y.astype(np.float64), strict=True):
        mean = [scipy.signal.convolve2d(z, window, mode="valid") for z in (a, b, a * a, b * b, a * b)]
        va, vb, cov = mean[2] - mean[0] ** 2, mean[3] - mean[1] ** 2, mean[4] - mean[0] * mean[1]
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        found.append(
            (2 * mean[0] * mean[1] + c1) * (2 * cov + c2) / ((mean[0] ** 2 + mean[1] ** 2 + c1) * (va + vb + c2))
        )
    return float(np.mean(found))


def test_ssim_equals_the_formula() -> None:
    a = noise(3, 24)
    b = (a + 0.4 * noise(3, 24, 1)).clamp(-1.2, 1.2)
    want = [by_hand(x.numpy(), y.numpy()) for x, y in zip(eight_bits(a), eight_bits(b), strict=True)]
    assert ssim(a, b).tolist() == pytest.approx(want, rel=1e-9) and all(0.2 < v < 0.99 for v in want)
    assert ssim(a, a).tolist() == pytest.approx([1.0] * 3) and ssim(a, b).tolist() == pytest.approx(ssim(b, a).tolist())
    with pytest.raises(DataError, match="SSIM needs 11 on each side"):
        ssim(noise(1, 10), noise(1, 10))


def test_usage_of_even_codes_is_all_of_them() -> None:
    assert usage(torch.tensor([5, 5, 5, 5])) == pytest.approx({"codes_used": 1.0, "perplexity": 4.0})
    assert usage(torch.tensor([8, 0, 0, 8])) == pytest.approx({"codes_used": 0.5, "perplexity": 2.0})


def test_a_result_is_what_its_parts_say() -> None:
    vqgan = tiny_model.vqgan()
    pixels = noise(6, 32, 2)
    torch.manual_seed(1)
    lpips, network = LPIPS(), torch.nn.Conv2d(3, 2, 8)
    features = NetworkFeatures("drawn:1", network, lambda x: network(x).flatten(1), 8, 2, Preparation())
    batches = [("abcd", pixels[:4]), ("ef", pixels[4:])]
    result = score_reconstruction(vqgan, batches, lpips=lpips, features=features)
    with torch.no_grad():
        codes = vqgan.encode(pixels)
        made = vqgan.decode(codes)
        near = lpips(eight_bits(made) / 127.5 - 1, eight_bits(pixels) / 127.5 - 1)
    names = {"psnr_db": psnr(made, pixels), "lpips": near, "ssim": ssim(made, pixels)}
    for name, values in names.items():
        assert list(result.items[name]) == list("abcdef")
        assert list(result.items[name].values()) == pytest.approx(values.tolist(), abs=1e-4)
        assert result.figures[name] == pytest.approx(float(values.double().mean()), abs=1e-4)
    assert result.figures["codes_used"] == pytest.approx(len(codes.unique()) / vqgan.config.codes)

    def shown(x: torch.Tensor) -> list[tuple[str, PIL.Image.Image]]:
        rows = eight_bits(x).byte().permute(0, 2, 3, 1).numpy()
        return [(str(i), PIL.Image.fromarray(row)) for i, row in enumerate(rows)]

    want = score_fid(sample(shown(made), features, "made"), sample(shown(pixels), features, "given"), measures=["fid"])
    assert result.figures["rfid"] == pytest.approx(want.figures["fid"], rel=1e-4)
    assert result.figures["rfid_bias"] == pytest.approx(want.figures["fid_bias"], rel=1e-3, abs=1e-6)
    assert result.n == 6 and any("10000 make a stable one" in one for one in result.warnings)
    plain = score_reconstruction(vqgan, batches)
    assert set(plain.figures) == {"psnr_db", "ssim", "codes_used", "perplexity"}


def test_what_cannot_be_measured_is_said() -> None:
    vqgan = tiny_model.vqgan()
    with pytest.raises(DataError, match="no images to evaluate"):
        score_reconstruction(vqgan, [])
    with pytest.raises(DataError, match="picture 'a' comes twice"):
        score_reconstruction(vqgan.train(), [("a", noise(1, 16)), ("a", noise(1, 16))])
    assert vqgan.training, "a tokenizer in training goes on in training, though its pictures were refused"
    with pytest.raises(DataError, match="picture 'a' comes twice"):
        score_reconstruction(vqgan, [("aa", noise(2, 16))])
    small = score_reconstruction(vqgan, [("a", noise(1, 8))])
    assert "ssim" not in small.figures and small.warnings == (
        "ssim is left out: pictures of 8 x 8 pixels are smaller than its window",
    )
