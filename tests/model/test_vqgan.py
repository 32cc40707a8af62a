"""The VQGAN's shapes at any resolution, its published geometry, its gradients and its refusals."""

from __future__ import annotations

import pytest
import torch

from cm3.errors import ConfigError, DataError
from cm3.model.vqgan import VQGAN, VQGANConfig, paper, small

TINY = dict(channels=4, blocks=1, z_channels=8, code_dim=4, codes=32)


def tiny(**changes: object) -> VQGANConfig:
    return VQGANConfig(**{**TINY, **changes})  # type: ignore[arg-type]


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    "config",
    [
        tiny(factor=8, multipliers=(1, 1, 2, 2)),
        tiny(factor=8, multipliers=(1, 2, 2), patch=2, attention_levels=(2,), quantizer="l2"),
        tiny(factor=8, multipliers=(2, 4), patch=4, resample="shuffle", quantizer="vq"),
        tiny(factor=16, multipliers=(1, 1, 1, 2, 2), quantizer="gumbel"),
        small(16),
        small(8),
    ],
    ids=["f8", "f8-patch2", "f8-patch4", "f16", "small16", "small8"],
)
def test_one_set_of_weights_serves_every_size(config: VQGANConfig) -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(config).eval()
    for height, width in ((32, 32), (48, 32), (64, 80)):
        x = pixels(2, 3, height, width)
        codes = vqgan.encode(x)
        assert codes.shape == (2, height // config.factor, width // config.factor) and codes.dtype == torch.int64
        assert 0 <= codes.min() and codes.max() < config.codes
        y = vqgan.decode(codes)
        assert y.shape == x.shape and y.dtype == torch.float32
        found = vqgan(x)
        assert torch.equal(found.codes, codes)
        torch.testing.assert_close(found.pixels, y, atol=1e-5, rtol=1e-5)


def test_every_weight_gets_a_gradient() -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(tiny(factor=8, multipliers=(1, 2, 2), patch=2, attention_levels=(1,), quantizer="vq"))
    found = vqgan(pixels(2, 3, 16, 16), torch.Generator().manual_seed(0))
    (found.pixels.square().mean() + found.loss).backward()
    assert [name for name, p in vqgan.named_parameters() if p.grad is None] == []


def test_images_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(small(16)).eval()
    x = pixels(3, 3, 32, 32)
    assert torch.equal(vqgan.encode(x), torch.cat([vqgan.encode(x[i : i + 1]) for i in range(3)]))


def test_the_paper_preset_has_the_geometry_of_its_family() -> None:
    with torch.device("meta"):
        vqgan = VQGAN(paper())
    names = dict(vqgan.named_parameters())
    assert names["encoder.down.0.block.0.conv1.weight"].shape == (128, 128, 3, 3)
    assert names["decoder.up.3.upsample.conv.weight"].shape == (512, 512, 3, 3)
    assert "encoder.mid.attn_1.q.weight" in names and vqgan.quantize.codes == 8192
    assert 256 // vqgan.config.factor == 32


@pytest.mark.parametrize(("factor", "multipliers", "millions"), [(16, (1, 1, 2, 2, 4), 72), (8, (1, 2, 2, 4), 70)])
def test_parameter_counts_are_those_of_llamagen(factor: int, multipliers: tuple[int, ...], millions: int) -> None:
    """Its tokenizers VQ-16 and VQ-8, 72M and 70M as published: attention in the middle and at the last level."""
    last = len(multipliers) - 1
    changes = {"quantizer": "l2", "codes": 16384, "code_dim": 8, "attention_levels": (last,)}
    with torch.device("meta"):
        vqgan = VQGAN(paper(factor=factor, multipliers=multipliers, **changes))
    assert round(sum(p.numel() for p in vqgan.parameters()) / 1e6) == millions


def test_small_is_small() -> None:
    sizes = [sum(p.numel() for p in VQGAN(small(f)).parameters()) for f in (8, 16)]
    assert all(0.5e6 < n < 2.6e6 for n in sizes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": 16}, r"vqgan.factor=16: must be patch \* 2 \*\* \(len\(multipliers\) - 1\) = 8; change patch"),
        ({"patch": 3}, r"vqgan.patch=3: must be 1, 2, 4 or 8"),
        ({"multipliers": ()}, r"vqgan.multipliers=\(\): needs at least one level"),
        ({"channels": 0}, r"vqgan.channels=0: must be at least 1"),
        ({"quantizer": "pq"}, r"vqgan.quantizer='pq': must be one of fsq, vq, ema, l2, gumbel"),
        ({"quantizer": "fsq", "levels": (8, 5)}, r"vqgan.codes=32: must be the product of levels=\(8, 5\) = 40"),
        ({"levels": (8, 4)}, r"vqgan.levels=\(8, 4\): only for quantizer='fsq'"),
        ({"resample": "fft"}, r"vqgan.resample='fft': must be 'conv' or 'shuffle'"),
        ({"attention_levels": (9,)}, r"vqgan.attention_levels=\(9,\): must be in 0..3"),
        ({"decay": 1.0}, r"vqgan.decay=1.0: must be between 0 and 1"),
        ({"beta": -1.0}, r"vqgan.beta=-1.0: must not be negative"),
    ],
)
def test_config_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**changes)


def test_config_reports_everything_at_once() -> None:
    with pytest.raises(ConfigError, match="vqgan.blocks=-1.*vqgan.patch=3"):
        tiny(blocks=-1, patch=3)


def test_small_refuses_other_factors() -> None:
    with pytest.raises(ConfigError, match="factor=4: the small tokenizer comes as 8 or 16"):
        small(4)


def test_wrong_inputs_are_refused() -> None:
    vqgan = VQGAN(small(16)).eval()
    with pytest.raises(DataError, match=r"\(1, 3, 40, 32\): .* multiples of 16; resize or crop first"):
        vqgan.encode(pixels(1, 3, 40, 32))
    with pytest.raises(DataError, match=r"must be \(batch, 3, height, width\)"):
        vqgan(pixels(1, 1, 32, 32))
    with pytest.raises(DataError, match="codes 0..2560: must be within 0..2559"):
        vqgan.decode(torch.tensor([[[0, 2560]]]))
    with pytest.raises(DataError, match="must be integers"):
        vqgan.decode(torch.zeros(1, 2, 2))
