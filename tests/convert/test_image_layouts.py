"""Each published image tokenizer gives the codes and the pixels of its own arithmetic, and goes back bit for bit."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable

import published_vq as vq
import pytest
import torch

from cm3.convert.image_layouts import (
    Found,
    Said,
    meta_config,
    read_image_tokenizer,
    root_of,
    to_meta,
    to_transformers,
    transformers_config,
)
from cm3.errors import CheckpointError, ConfigError
from cm3.model.vqgan import VQGAN, VQGANConfig, small

Weights = dict[str, torch.Tensor]


def below(root: str, made: Weights) -> Weights:
    return {root + name: tensor for name, tensor in made.items()}


def beside(made: Weights) -> Weights:
    """A language model's tensors around an image tokenizer's."""
    return made | {"model.layers.0.mlp.up_proj.weight": torch.zeros(2, 2), "lm_head.weight": torch.zeros(2, 2)}


def read(made: Weights, **how: object) -> Found:
    return read_image_tokenizer(made, made.__getitem__, "here", **how)  # type: ignore[arg-type]


def same(name: str, made: Weights) -> Weights:
    return made


CASES: dict[str, tuple[str, vq.Spec, type[vq.Taming], Callable[[str, Weights], Weights], int]] = {
    "taming-f16": ("taming", vq.TAMING_F16, vq.Taming, same, 256),
    "latent-diffusion-f8": ("taming", vq.LATENT_F8, vq.Taming, same, 256),
    "first-stage": ("taming", vq.LATENT_F8, vq.Taming, lambda _, w: below("first_stage_model.", w), 256),
    "gumbel-f8": ("gumbel", vq.GUMBEL_F8, vq.Taming, same, 256),
    "chameleon": ("chameleon", vq.CHAMELEON, vq.Taming, same, 512),
    "anoles-fork": ("chameleon", vq.CHAMELEON, vq.Taming, lambda _, w: beside(below("model.vqmodel.", w)), 512),
    "open-muse": ("open-muse", vq.OPEN_MUSE, vq.Taming, same, 256),
    "llamagen-8": ("llamagen", vq.LLAMAGEN_8, vq.LlamaGen, same, 256),
    "llamagen-16": (
        "llamagen",
        vq.LLAMAGEN_16,
        vq.LlamaGen,
        lambda _, w: w | {"quantize.codebook_used": torch.zeros(65536)},
        256,
    ),
    "janus": ("janus", vq.LLAMAGEN_16, vq.LlamaGen, lambda _, w: beside(below("gen_vision_model.", w)), 384),
    "ibq": ("ibq", vq.IBQ, vq.Taming, lambda _, w: vq.with_averages(vq.weights(vq.IBQ, vq.Taming(vq.IBQ), 7), w), 256),
}
APART = 1e-4
"""Codes whose scores are nearer than this in float64 may be told apart otherwise in float32."""


@pytest.mark.parametrize("name", CASES)
def test_codes_and_pixels_are_those_of_the_published_arithmetic(name: str) -> None:
    layout, spec, naming, wrapped, size = CASES[name]
    names = naming(spec)
    made = vq.weights(spec, names)
    found = read(wrapped(name, made))
    assert (found.about["from"], found.size) == (layout, size)
    assert found.vqgan.config.factor == 2 ** (len(spec.mult) - 1) and not found.vqgan.training
    network = vq.Network(spec, names, made)
    side = 4 * found.vqgan.config.factor
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    own = (x.double() + 1) / 2 if layout == "open-muse" else x
    scores = network.scores(own)
    best = scores.topk(2, dim=1)
    clear = best.values[:, 0] - best.values[:, 1] > APART
    codes = found.vqgan.encode(x)
    assert clear.float().mean() > 0.9 and codes.unique().numel() > 8
    assert torch.equal(codes[clear], best.indices[:, 0][clear])
    wanted = network.draw(codes)
    wanted = wanted * 2 - 1 if layout == "open-muse" else wanted
    # The same in float64, where no rounding hides a difference; narrow norms make float32 lose a digit or two.
    assert float((found.vqgan.decode(codes).double() - wanted).abs().mean()) < 1e-5
    exact = copy.deepcopy(found.vqgan).double()
    assert torch.equal(exact.encode(x.double()), best.indices[:, 0])
    assert float((exact.decode(codes) - wanted).abs().max()) < 1e-9
    assert found.about["pixels"] == ("0..1" if layout == "open-muse" else "-1..1")


def test_a_network_of_the_published_widths_has_the_published_shapes() -> None:
    """Full width, where norms have 4 channels a group and more, on the meta device: taming's names and shapes."""
    spec = vq.Spec(ch=128, mult=(1, 1, 2, 2, 4), z=256, dim=256, codes=8192)
    with torch.device("meta"):
        ours = VQGAN(read_config(spec))
    theirs = {n: tuple(t.shape) for n, t in vq.weights(spec, vq.Taming(spec)).items()}
    assert {n: tuple(t.shape) for n, t in ours.state_dict().items() if n != "quantize.unused"} == theirs
    assert len(theirs) == 293 and sum(torch.Size(s).numel() for s in theirs.values()) // 100_000 == 687


def read_config(spec: vq.Spec) -> VQGANConfig:
    return VQGANConfig(
        factor=2 ** (len(spec.mult) - 1),
        channels=spec.ch,
        multipliers=spec.mult,
        blocks=spec.blocks,
        attention_levels=spec.inner,
        z_channels=spec.z,
        quantizer="vq",
        codes=spec.codes,
        code_dim=spec.dim,
        groups=32,
    )


def chameleon(seed: int = 0) -> Weights:
    return vq.weights(vq.CHAMELEON, vq.Taming(vq.CHAMELEON), seed)


def transformers_chameleon(found: Found) -> torch.nn.Module:
    """The class of transformers, with weights that we export."""
    modeling = pytest.importorskip("transformers.models.chameleon.modeling_chameleon")
    config = pytest.importorskip("transformers.models.chameleon.configuration_chameleon")
    wanted = transformers_config(found.vqgan.config, found.size)
    theirs = modeling.ChameleonVQVAE(config.ChameleonVQVAEConfig(**wanted))
    weights = {n.removeprefix("model.vqmodel."): t for n, t in to_transformers(found.vqgan).items()}
    theirs.load_state_dict(weights, strict=True)
    return theirs.eval()


@pytest.mark.parametrize("inner", [(), (1,)])
def test_transformers_reads_what_is_exported_and_gives_the_same_codes(inner: tuple[int, ...]) -> None:
    spec = dataclasses.replace(vq.CHAMELEON, inner=inner)
    found = read(vq.weights(spec, vq.Taming(spec)), size=64)
    theirs = transformers_chameleon(found)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        latents = theirs.quant_conv(theirs.encoder(x))
        codes = theirs.encode(x).image_tokens.view(2, 4, 4)
    torch.testing.assert_close(found.vqgan.latents(x), latents, atol=1e-5, rtol=0)
    assert torch.equal(found.vqgan.encode(x), codes)


def test_the_half_that_transformers_has_is_read_with_metas_file_and_compared() -> None:
    whole = read(chameleon())
    half = beside(to_transformers(whole.vqgan, torch.bfloat16))
    with pytest.raises(CheckpointError, match="has an encoder and no decoder.*Meta's vqgan.ckpt.*Alpha-VLLM"):
        read(half)
    found = read(half, whole=whole.vqgan)
    assert found.vqgan is whole.vqgan and found.about["from"] == "transformers-chameleon"
    assert found.about["dtype"] == "bfloat16", "what goes back is what was there"
    back = to_transformers(found.vqgan, torch.bfloat16)
    assert all(torch.equal(back[name], half[name]) for name in back)
    other = read(chameleon(seed=1))
    with pytest.raises(CheckpointError, match=r"tensors are not those of the given vqgan.ckpt: .* more"):
        read(half, whole=other.vqgan)
    with pytest.raises(CheckpointError, match="it has a decoder of its own; leave the other out"):
        read(chameleon(), whole=whole.vqgan)


def test_transformers_janus_draws_the_same() -> None:
    modeling = pytest.importorskip("transformers.models.janus.modeling_janus")
    config = pytest.importorskip("transformers.models.janus.configuration_janus")
    torch.manual_seed(0)
    page = config.JanusVQVAEConfig(
        embed_dim=4, num_embeddings=48, latent_channels=8, base_channels=32, channel_multiplier=[1, 2], num_patches=4
    )
    theirs = modeling.JanusVQVAE(page).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            value.copy_(torch.randn(value.shape) * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
        # Its encoder leaves out that codes are unit vectors, which a table of unit vectors makes good.
        table = theirs.quantize.embedding.weight
        table.div_(table.norm(dim=1, keepdim=True))
    found = read(below("model.vqmodel.", {n: v.detach() for n, v in theirs.state_dict().items()}))
    assert found.about["from"] == "transformers-janus" and found.size == 384
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        codes = theirs.encode(x).image_tokens.view(2, 4, 4)
        assert torch.equal(found.vqgan.encode(x), codes)
        torch.testing.assert_close(found.vqgan.decode(codes), theirs.decode(codes.view(2, -1)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", [vq.CHAMELEON, vq.TAMING_F16])
def test_there_and_back_is_bit_for_bit(spec: vq.Spec, dtype: torch.dtype) -> None:
    made = {name: tensor.to(dtype) for name, tensor in vq.weights(spec, vq.Taming(spec)).items()}
    found = read(made)
    assert found.about["dtype"] == str(dtype).removeprefix("torch.")
    back = to_meta(found.vqgan, getattr(torch, found.about["dtype"]))
    assert back.keys() == made.keys()
    assert all(back[name].dtype == dtype and torch.equal(back[name], made[name]) for name in made)


def test_a_tokenizer_of_ours_goes_out_and_comes_back() -> None:
    """One that a run of ours trained in the published shape, its codes moved by averages."""
    torch.manual_seed(0)
    config = dataclasses.replace(read_config(vq.CHAMELEON), quantizer="ema", groups=32)
    ours = VQGAN(config).eval()
    back = read(to_meta(ours)).vqgan
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    assert torch.equal(back.encode(x), ours.encode(x))
    assert torch.equal(back.decode(ours.encode(x)), ours.decode(ours.encode(x)))
    page = meta_config(config, 512)["model"]["params"]
    assert page["n_embed"] == 48 and page["ddconfig"]["ch_mult"] == [1, 1, 1, 1, 2]


def test_a_network_without_a_published_form_is_refused_with_all_that_is_wrong() -> None:
    for export in (to_meta, to_transformers):
        with pytest.raises(ConfigError) as error:
            export(VQGAN(small(16)))
        assert all(
            word in str(error.value) for word in ("quantizer='fsq'", "patch=4", "resample", "norm", "reach", "middle")
        )
    thin = VQGAN(dataclasses.replace(read_config(vq.CHAMELEON), groups=0))
    with pytest.raises(ConfigError, match=r"norms must have 32 groups, and have 8, 16"):
        to_meta(thin)


def test_averages_are_taken_and_a_lone_network_of_four_blocks_is_asked_about() -> None:
    """Nothing in the tensors tells IBQ's rule of choosing codes from taming's but what training left beside them."""
    made = vq.weights(vq.IBQ, vq.Taming(vq.IBQ))
    found = read(vq.with_averages(vq.weights(vq.IBQ, vq.Taming(vq.IBQ), 7), made))
    assert found.about["weights"] == "moving averages" and found.about["left_out"] > len(made)
    assert torch.equal(found.vqgan.state_dict()["quantize.embedding.weight"], made["quantize.embedding.weight"])
    with pytest.raises(CheckpointError, match="may be taming's or IBQ's.*say quantizer vq or ibq"):
        read(made)
    assert [read(made, quantizer=q).vqgan.config.quantizer for q in ("vq", "ibq")] == ["vq", "ibq"]
    lacking = vq.with_averages(made, made)
    del lacking["model_ema.encoderconv_inweight"]
    with pytest.raises(CheckpointError, match="1 tensors are missing: model_ema.encoderconv_inweight"):
        read(lacking)


def test_all_that_is_wrong_is_one_error_of_one_line() -> None:
    made = chameleon()
    del made["decoder.mid.block_1.conv1.weight"], made["quant_conv.bias"]
    made |= {"encoder.down.1.block.7.conv1.weight": torch.zeros(32, 32, 3, 3), "quantize.used": torch.arange(4)}
    made["decoder.conv_in.weight"] = torch.zeros(64, 9, 3, 3)
    made["post_quant_conv.bias"] = torch.zeros(8, dtype=torch.int64)
    with pytest.raises(CheckpointError) as error:
        read(made, size=40)
    said = str(error.value)
    assert "\n" not in said
    for word in (
        "2 tensors are missing:",
        "2 tensors are of no part",
        "quant_conv.bias",
        "decoder.mid.block_1.conv1.weight",
        "encoder.down.1.block.7.conv1.weight",
        "quantize.used",
        r"decoder.conv_in.weight has shape (64, 9, 3, 3), and the others make it (64, 8, 3, 3)",
        "post_quant_conv.bias is stored as int64",
        "size=40: must be a multiple of 16",
    ):
        assert word in said, word


def change(name: str, value: torch.Tensor | None) -> Callable[[Weights], Weights]:
    """The weights with one tensor changed, or gone."""
    return lambda made: {n: t for n, t in (made | {name: value}).items() if t is not None}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda made: {}, "no image tokenizer is in it"),
        (lambda made: {"lm_head.weight": torch.zeros(2, 2)}, "no image tokenizer is in it"),
        (change("encoder.conv_in.weight", torch.zeros(3)), r"encoder.conv_in.weight has shape \(3,\); it must have 4"),
        (change("encoder.conv_in.weight", None), "encoder.conv_in.weight is missing"),
        (change("encoder.conv_in.weight", torch.zeros(32, 4, 3, 3)), "its pictures have 4 channels; ours have 3"),
        (change("encoder.conv_in.weight", torch.zeros(24, 3, 3, 3)), "has 32 channels, no multiple of the 24"),
        (change("encoder.down.9.block.0.conv1.weight", torch.zeros(1, 1, 3, 3)), "the levels 0, 1, 2, 3, 4, 9;"),
        (change("quantize.embedding.weight", None), "quantize.embedding.weight is missing"),
        (change("quantize.embedding.weight", torch.full((48, 8), torch.nan)), "quantize.embedding.weight has values"),
        (
            change("encoder.down.0.block.99999999999999.conv1.weight", torch.zeros(1, 1, 3, 3)),
            "1 tensors are of no part",
        ),
    ],
)
def test_what_is_no_image_tokenizer_is_refused(changed: Callable[[Weights], Weights], message: str) -> None:
    made = changed(chameleon())
    with pytest.raises(CheckpointError, match=message):
        read(made)


def test_settings_that_contradict_the_tensors_are_refused() -> None:
    made = chameleon()
    for how, message in (
        ({"quantizer": "fsq"}, "quantizer='fsq': must be one of vq, l2, gumbel, ibq"),
        ({"quantizer": "gumbel"}, "quantizer='gumbel': its tensors are those of another"),
        ({"pixels": "0..255"}, "pixels='0..255': must be one of -1..1, 0..1"),
        ({"beside": Said("vqgan.yaml", codes=8192, channels=32)}, "vqgan.yaml says codes=8192, and its tensors 48"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(message)):
            read(made, **how)
    assert read(made, pixels="0..1").vqgan.config.pixels == "0..1"
    assert read(made, beside=Said("config.json", size=256, muse=True)).about == {
        **read(made).about,
        "from": "open-muse",
        "pixels": "0..1",
        "squares": "shortest edge to the size, bilinear; centre crop",
    }


def test_the_root_is_that_of_the_network() -> None:
    names = ("encoder.conv_in.weight", "quant_conv.weight", "decoder.conv_in.weight")
    nothing = torch.zeros(1)
    assert root_of({f"a.{n}": nothing for n in names}) == "a."
    assert root_of({n: nothing for n in names} | {f"z.{names[0]}": nothing}) == ""
    assert root_of({"encoder.conv_in.weight": nothing, "post_quant_conv.weight": nothing}) is None
