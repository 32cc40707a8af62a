"""The VQGAN's shapes at any resolution, its published geometry, its gradients and its refusals."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3 import files
from cm3.errors import ConfigError, DataError
from cm3.model.vqgan import VQGAN, PositionNorm, VQGANConfig, paper, small

TINY = dict(channels=4, blocks=1, z_channels=8, code_dim=4, codes=32)


LOCAL = dict(norm="position", reach="cell", resample="shuffle", attention=False)
"""Of a tokenizer whose codes see their own pixels alone, beside a `patch` over 1."""
FINGERPRINT = "a275ed7c725467b551f8b8d648bb630c2ad889659eee95a6021bc4273a275911"
"""Of the VQGAN below with weights of zero, as written before `norm` and `reach`."""


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
        tiny(factor=8, multipliers=(1, 2, 2), patch=2, attention_levels=(2,), norm="position"),
        tiny(factor=16, multipliers=(2,), patch=16, **LOCAL),
        tiny(factor=8, multipliers=(2, 4), patch=4, blocks=0, decoder_blocks=0, middle=False, **LOCAL),
        small(16),
        small(8),
        small(16, norm="group", reach="wide"),
    ],
    ids=["f8", "f8-patch2", "f8-patch4", "f16", "position", "patch16", "no-blocks", "small16", "small8", "small-wide"],
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


def test_the_range_of_a_networks_own_pixels_stays_inside() -> None:
    """The same weights that were trained on [0, 1]: x -> (x + 1) / 2 before, y -> 2 y - 1 after, nothing else."""
    torch.manual_seed(0)
    plain = VQGAN(tiny(quantizer="vq", factor=4, multipliers=(1, 1, 2))).eval()
    other = VQGAN(dataclasses.replace(plain.config, pixels="0..1")).eval()
    other.load_state_dict(plain.state_dict())
    x = pixels(1, 3, 16, 16)
    torch.testing.assert_close(other.latents(x), plain.latents((x + 1) / 2))
    codes = other.encode(x)
    torch.testing.assert_close(other.decode(codes), plain.decode(codes) * 2 - 1)
    torch.testing.assert_close(other(x).pixels, other.decode(codes), atol=1e-5, rtol=1e-5)
    assert other.fingerprint() != plain.fingerprint()


def test_groups_are_those_of_every_norm() -> None:
    plain = tiny(channels=8)
    with torch.device("meta"):
        found = {
            m.num_groups for m in VQGAN(dataclasses.replace(plain, groups=4)).modules() if hasattr(m, "num_groups")
        }
        own = {m.num_groups for m in VQGAN(plain).modules() if hasattr(m, "num_groups")}
    assert found == {4} and own == {2, 4, 8}


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
        ({"patch": 3}, r"vqgan.patch=3: must be 1, 2, 4, 8 or 16"),
        ({"norm": "layer"}, r"vqgan.norm='layer': must be 'group' or 'position'"),
        ({"reach": "far"}, r"vqgan.reach='far': must be 'wide' or 'cell'"),
        ({"multipliers": ()}, r"vqgan.multipliers=\(\): needs at least one level"),
        ({"channels": 0}, r"vqgan.channels=0: must be at least 1"),
        ({"quantizer": "pq"}, r"vqgan.quantizer='pq': must be one of fsq, vq, ema, l2, gumbel, ibq"),
        ({"quantizer": "fsq", "levels": (8, 5)}, r"vqgan.codes=32: must be the product of levels=\(8, 5\) = 40"),
        ({"levels": (8, 4)}, r"vqgan.levels=\(8, 4\): only for quantizer='fsq'"),
        ({"resample": "fft"}, r"vqgan.resample='fft': must be 'conv' or 'shuffle'"),
        ({"attention_levels": (9,)}, r"vqgan.attention_levels=\(9,\): must be in 0..3"),
        ({"decay": 1.0}, r"vqgan.decay=1.0: must be between 0 and 1"),
        ({"groups": 3}, r"vqgan.groups=3: must divide the channels of every level, and not those of 4"),
        ({"groups": 4, "norm": "position"}, r"vqgan.groups=4: only for norm='group'"),
        ({"pixels": "0..255"}, r"vqgan.pixels='0..255': must be one of -1..1, 0..1"),
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


LOCALS = {
    "small16": small(16, channels=4),
    "small8": small(8, channels=4),
    "one-level": tiny(factor=16, multipliers=(2,), patch=16, quantizer="vq", **LOCAL),
    "middle": tiny(factor=8, multipliers=(1, 2), patch=4, blocks=2, quantizer="l2", **LOCAL),
}


@pytest.mark.parametrize("name", LOCALS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_a_local_code_depends_on_its_own_pixels_alone(name: str, seed: int, data: st.DataObject) -> None:
    """Whatever is edited, what is quantised of a cell changes only where a pixel of the cell did."""
    torch.manual_seed(seed)
    vqgan, f = VQGAN(LOCALS[name]).eval(), LOCALS[name].factor
    x = torch.rand(1, 3, 3 * f, 4 * f) * 2 - 1
    top, left = data.draw(st.integers(0, 3 * f - 1)), data.draw(st.integers(0, 4 * f - 1))
    bottom, right = data.draw(st.integers(top + 1, 3 * f)), data.draw(st.integers(left + 1, 4 * f))
    y = x.clone()
    y[..., top:bottom, left:right] -= x[..., top:bottom, left:right].sign()
    edited = F.max_pool2d((x != y).float(), f).amax(1) > 0
    moved = (vqgan.latents(x) != vqgan.latents(y)).any(1)
    assert torch.equal(moved, edited)
    assert torch.equal(vqgan.encode(x)[~edited], vqgan.encode(y)[~edited])


@pytest.mark.parametrize("norm", ["group", "position"])
def test_a_code_of_a_wide_encoder_depends_on_more(norm: str) -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(small(16, channels=4, reach="wide", norm=norm)).eval()
    x = pixels(1, 3, 128, 128)
    y = x.clone()
    y[..., :16, :16] = -1
    moved = (vqgan.latents(x) - vqgan.latents(y)).abs().amax(1)[0]
    assert moved[0, 1] > 1e-4 and moved[1, 1] > 1e-4, "the cells beside it"
    far = float(moved[-1, -1].detach())
    assert far > 1e-5 if norm == "group" else far == 0, "a norm over the picture reaches across it"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_norm_of_a_position_is_torchs_of_its_channels(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    norm = PositionNorm(6, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 3, 5).contiguous(memory_format=layout).requires_grad_()
    found = norm(x)
    wanted = torch.stack([F.layer_norm(v, (6,), norm.weight, norm.bias, 1e-6) for v in x.flatten(2).mT.reshape(-1, 6)])
    wanted = wanted.reshape(2, 15, 6).mT.reshape(2, 6, 3, 5)
    torch.testing.assert_close(found, wanted)
    pull = torch.randn(found.shape)
    ours, theirs = (torch.autograd.grad(y, (x, norm.weight, norm.bias), pull) for y in (found, wanted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({"norm": "group"}, "norm='position'"),
        ({"resample": "conv"}, "resample='shuffle'"),
        ({"patch": 1, "multipliers": (1, 1, 1, 1)}, "patch over 1"),
        ({"attention": True}, "attention=False"),
        ({"attention_levels": (0,)}, r"attention_levels=\(\)"),
        ({"norm": "group", "attention": True}, "norm='position' and attention=False"),
    ],
)
def test_a_local_encoder_refuses_what_looks_further(changes: dict[str, object], needs: str) -> None:
    shape: dict[str, object] = {"factor": 8, "multipliers": (1, 2), "patch": 4, **LOCAL}
    tiny(**shape)
    message = f"vqgan.reach='cell': a code may see no other cell, which needs {needs}; or reach='wide'"
    with pytest.raises(ConfigError, match=message):
        tiny(**{**shape, **changes})


@pytest.mark.parametrize("config", [*LOCALS.values(), small(16), paper()], ids=lambda c: f"{c.reach}-{c.factor}")
def test_a_config_comes_back_from_json(config: VQGANConfig) -> None:
    page = json.loads(json.dumps(dataclasses.asdict(config)))
    assert files.build(VQGANConfig, page, "here") == config


def test_a_config_and_a_fingerprint_from_before_norm_and_reach_stay() -> None:
    """Models on disk know neither field, and stores hold the fingerprint of the tokenizer that they were made with."""
    page = dataclasses.asdict(tiny(factor=8, multipliers=(2, 4), patch=4))
    del page["norm"], page["reach"], page["groups"], page["pixels"]
    config = files.build(VQGANConfig, page, "here")
    assert (config.norm, config.reach) == ("group", "wide")
    vqgan = VQGAN(config)
    for weight in vqgan.state_dict().values():
        weight.zero_()
    assert vqgan.fingerprint() == FINGERPRINT
    other = VQGAN(dataclasses.replace(config, norm="position"))
    other.load_state_dict(vqgan.state_dict())
    assert other.fingerprint() != FINGERPRINT
