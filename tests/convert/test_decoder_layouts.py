"""Layouts of the language model: each is recognised, read, computed as its owner computes it, and written back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from published_language import (
    Shape,
    anole,
    hf_config,
    lumina,
    meta,
    meta_logits,
    meta_params,
    transformers,
    whole,
)
from torch import Tensor

from cm3.convert.decoder_layouts import (
    Layout,
    Ours,
    norm_groups,
    our_shapes,
    permuted,
    recognise,
    seen_as_ours,
    written,
)
from cm3.convert.decoder_settings import Settings, check_family, feed_forward, to_meta
from cm3.errors import CheckpointError
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder, DecoderConfig

SHAPES = {
    "one shard": Shape(),
    "grouped heads": Shape(kv=2),
    "two shards, swin": Shape(shards=2, swin=True),
    "four shards, grouped": Shape(shards=4, kv=4, theta=50_000.0),
    "eight shards, swin": Shape(dim=64, heads=16, kv=16, shards=8, swin=True),
}
HF = {"transformers": transformers, "lumina": lumina, "anole": anole}


def held(state: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """What a file's header says; None is no tensor."""
    return {n: (tuple(t.shape), t.dtype) for n, t in state.items() if t is not None}


def stored(family: str, shape: Shape, dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    model = whole(shape, dtype=dtype)
    return meta(model) if family == "meta" else [HF[family](model)]


def settings(family: str, shape: Shape) -> Settings:
    return Settings.of_meta(*meta_params(shape)) if family == "meta" else Settings.of_transformers(hf_config(shape))


def seen(family: str, shape: Shape, files: list[dict[str, Any]]) -> Ours:
    return seen_as_ours([held(f) for f in files], settings(family, shape), lambda i, name: files[i][name])


def back(layout: Layout, ours: Ours) -> list[dict[str, Tensor]]:
    files = written(layout, ours.config, ours.dtypes, ours.read)
    return [{piece.name: piece.make() for piece in pieces} for pieces in files]


def weights(ours: Ours) -> dict[str, Tensor]:
    return {name: ours.read(name) for name in ours.dtypes}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    a = {n: t for n, t in a.items() if n != "rope.freqs"}
    b = {n: t for n, t in b.items() if n != "rope.freqs"}
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


CASES = [(family, name) for name in SHAPES for family in ("meta", *HF) if family != "anole" or SHAPES[name].shards == 1]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_each_layout_computes_what_metas_program_does(family: str, name: str) -> None:
    shape = SHAPES[name]
    ours = seen(family, shape, stored(family, shape))
    assert ours.layout.family == family
    with torch.device("meta"):
        decoder = Decoder(ours.config)
    decoder.load_state_dict(weights(ours), assign=True)
    ids = torch.randint(shape.vocab, (40,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = decoder.eval()(ids[None], torch.arange(40)[None], Causal())[0]
    expected = meta_logits(shape, stored("meta", shape), ids)
    # Weights are large here, so the logits are: rounding is in their proportion.
    assert (logits - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert expected.std() > 0.5


@pytest.mark.parametrize("name", SHAPES)
def test_every_layout_goes_into_every_other_bit_for_bit(name: str) -> None:
    shape = SHAPES[name]
    families = [family for family, of in CASES if of == name]
    kept = {family: stored(family, shape, torch.bfloat16) for family in families}
    for family in families:
        ours = seen(family, shape, kept[family])
        assert norm_groups(ours.config, ours.read) == shape.shards
        for other in families:
            layout = Layout(other, shape.shards if other == "meta" else 1, 1 if other == "anole" else shape.shards)
            layout = layout._replace(groups=1) if other == "transformers" else layout
            made = back(layout, ours)
            assert len(made) == len(kept[other])
            assert all(same(a, b) for a, b in zip(made, kept[other], strict=True)), f"{family} -> {other}"


@pytest.mark.parametrize("family", ["meta", "transformers"])
def test_rows_of_ids_are_moved_and_moved_back(family: str) -> None:
    shape = SHAPES["two shards, swin"]
    files = stored(family, shape)
    to_file = torch.randperm(shape.vocab, generator=torch.Generator().manual_seed(2))
    plain = seen(family, shape, files)
    moved = plain._replace(read=permuted(plain.read, to_file))
    for name in ("embed.weight", "output.weight"):
        assert torch.equal(moved.read(name)[5], plain.read(name)[to_file[5]])
        assert not torch.equal(moved.read(name), plain.read(name))
    assert torch.equal(moved.read("blocks.0.down.weight"), plain.read("blocks.0.down.weight"))
    made = back(plain.layout, moved._replace(read=permuted(moved.read, to_file.argsort())))
    assert all(same(a, b) for a, b in zip(made, files, strict=True))


def test_our_names_are_the_decoders() -> None:
    for shape in SHAPES.values():
        config = seen("transformers", shape, stored("transformers", shape)).config
        with torch.device("meta"):
            state = Decoder(config).state_dict()
        assert our_shapes(config) == {name: tuple(value.shape) for name, value in state.items()}


def test_a_model_of_one_shard_is_cut_into_more_and_joined() -> None:
    shape = SHAPES["one shard"]
    files = stored("meta", shape)
    ours = seen("meta", shape, files)
    for n in (2, 4, 8):
        cut = back(Layout("meta", n, n), ours)
        assert len(cut) == n and cut[0]["layers.0.attention.wo.weight"].shape == (32, 32 // n)
        joined = seen("meta", dataclasses.replace(shape, shards=n), cut)
        assert norm_groups(joined.config, joined.read) == 1
        assert same(back(Layout("meta"), joined)[0], files[0])


def test_norms_of_several_shards_do_not_fit_into_fewer() -> None:
    ours = seen("meta", SHAPES["four shards, grouped"], stored("meta", SHAPES["four shards, grouped"]))
    with pytest.raises(CheckpointError, match="heads of one of 2 groups have norms of their own"):
        back(Layout("meta", 2, 2), ours)
    with pytest.raises(CheckpointError, match=r"8 heads, 4 key and value heads, 96 ids.*cannot be cut into 5 shards"):
        written(Layout("meta", 5, 5), ours.config, ours.dtypes, ours.read)


def test_a_tied_model_has_one_matrix_and_a_head_that_is_another_is_refused() -> None:
    shape = Shape(tied=True)
    files = stored("transformers", shape)
    assert "lm_head.weight" not in files[0]
    ours = seen("transformers", shape, files)
    assert ours.config.tied and same(back(Layout("transformers"), ours)[0], files[0])
    assert torch.equal(back(Layout("meta"), ours)[0]["output.weight"], files[0]["model.embed_tokens.weight"])
    files[0]["lm_head.weight"] = files[0]["model.embed_tokens.weight"].clone()
    assert seen("transformers", shape, files).config.tied
    files[0]["lm_head.weight"][3, 1] += 1
    with pytest.raises(CheckpointError, match="lm_head.weight: is not the embedding, and config.json says tie"):
        seen("transformers", shape, files)


def test_all_that_is_wrong_is_said_at_once() -> None:
    shape = SHAPES["two shards, swin"]
    files = stored("meta", shape)
    del files[0]["layers.1.attention.wo.weight"]
    files[1]["layers.0.feed_forward.w2.weight"] = torch.zeros(32, 23)
    files[1]["layers.0.attention.wv.weight"] = files[1]["layers.0.attention.wv.weight"].half()
    files[0]["lora.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as error:
        seen("meta", shape, files)
    text = str(error.value)
    assert "layers.1.attention.wo.weight of shard 0: missing" in text
    assert "layers.0.feed_forward.w2.weight of shard 1 (32, 23), not (32, 24): of another shape" in text
    assert "layers.0.attention.wv.weight of shard 1 float16: of another type" in text
    assert "lora.weight of shard 0: not Chameleon's" in text
    assert "\n" not in text


def test_settings_of_another_model_are_refused() -> None:
    shape, other = Shape(), Shape(heads=4, kv=4, hidden=64)
    files = stored("transformers", shape)
    with pytest.raises(CheckpointError) as error:
        seen("transformers", other, files)
    for told in ("heads is 8 by the tensors and 4 by the settings", "hidden is 48 by the tensors and 64"):
        assert told in str(error.value)


def test_a_missing_shard_and_a_shard_of_another_model_are_refused() -> None:
    shape = SHAPES["four shards, grouped"]
    files = stored("meta", shape)
    with pytest.raises(CheckpointError, match="3 files of weights.*model_parallel_size=4: a shard is missing"):
        seen("meta", shape, files[:3])
    files[2] = meta(whole(shape, seed=5))[2]
    with pytest.raises(CheckpointError, match="of another model in some shard"):
        seen("meta", shape, files)


def test_copies_a_rounding_apart_become_their_mean() -> None:
    shape = SHAPES["two shards, swin"]
    files = stored("meta", shape)
    files[1]["norm.weight"] = files[1]["norm.weight"] * (1 + 2**-8)
    mean = (files[0]["norm.weight"] + files[1]["norm.weight"]) / 2
    assert torch.allclose(seen("meta", shape, files).read("norm.weight"), mean, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("layers.0.attention.wqkv.weight", "joined by Meta's program in memory"),
        ("transformer.h.0.attn.c_attn.weight", "no language model of Chameleon's family"),
        ("layers.0.attention.wq.weight", "a Chameleon has these norms"),
    ],
)
def test_other_models_are_refused(name: str, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        recognise([{name: ((32, 32), torch.float32)}])
    with pytest.raises(CheckpointError, match="no tensors"):
        recognise([])


@pytest.mark.parametrize(
    ("query", "norm"), [((), (8, 4)), ((32,), (4,)), ((32, 32), ()), ((32, 32), (0, 4)), ((32, 32), (2, 2, 2))]
)
def test_shapes_that_are_no_heads_are_refused(query: tuple[int, ...], norm: tuple[int, ...]) -> None:
    names = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_norm.weight")
    with pytest.raises(CheckpointError, match="are no matrix and no norms of heads"):
        recognise([{names[0]: (query, torch.float32), names[1]: (norm, torch.float32)}])


def test_a_layer_of_a_number_of_a_mile_is_no_layer() -> None:
    shape = SHAPES["one shard"]
    files = stored("meta", shape)
    files[0][f"layers.{'9' * 5000}.attention.wq.weight"] = torch.ones(1)
    with pytest.raises(CheckpointError, match="not Chameleon's") as error:
        seen("meta", shape, files)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden_act": "gelu"}, "hidden_act must be silu"),
        ({"attention_bias": True, "mlp_bias": True}, "attention_bias must be false; mlp_bias must be false"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rotary positions are scaled"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rotary positions are scaled"),
        ({"rms_norm_eps": 1e-6}, "norms add 1e-06"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers='2' must be a whole number"),
        (
            {"swin_norm": 1, "rope_theta": -1},
            "rope_theta=-1 must be a number over 0; swin_norm=1 must be true or false",
        ),
    ],
)
def test_settings_that_no_chameleon_has_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        Settings.of_transformers(hf_config(Shape()) | change)


def test_settings_of_each_layout_are_read() -> None:
    shape = SHAPES["four shards, grouped"]
    read = Settings.of_meta(*meta_params(shape))
    assert (read.rope_theta, read.swin, read.context) == (50_000.0, False, 4096)
    assert read.claims == {
        "vocab_size": 96, "d_model": 32, "layers": 2, "heads": 8, "kv_heads": 4, "hidden": 48,
        "model_parallel_size": 4,
    }  # fmt: skip
    new = hf_config(shape) | {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 9.0}}
    assert Settings.of_transformers(new).rope_theta == 9.0
    with pytest.raises(CheckpointError, match="qk_normalization must be true"):
        Settings.of_meta({"model": {"qk_normalization": False}}, {})


@pytest.mark.parametrize("hidden", [11008, 256, 48, 4096, 7, 10_923])
def test_metas_settings_give_the_width_that_the_model_has(hidden: int) -> None:
    config = DecoderConfig(vocab_size=96, d_model=4096, layers=1, heads=32, hidden=hidden, context=77)
    params, consolidated = to_meta(dataclasses.replace(config, norm_order="swin"), 2)
    read = Settings.of_meta(params, consolidated)
    assert read.claims["hidden"] == hidden and read.swin and read.context == 77
    assert read.claims["model_parallel_size"] == 2
    assert feed_forward(4096, 256, None) == 11008


def test_a_decoder_of_another_kind_is_no_chameleon() -> None:
    with pytest.raises(CheckpointError, match=r"decoder.norm=layer, not rms; .*decoder.positions=learned, not rope"):
        check_family(DecoderConfig())
    config = seen("meta", Shape(), stored("meta", Shape())).config
    wide = dataclasses.replace(config, d_model=32 * config.heads, kv_heads=config.heads)
    check_family(wide)
    with pytest.raises(CheckpointError, match=r"decoder.near=2.0, not 0"):
        check_family(dataclasses.replace(wide, near=2.0))
    check_family(seen("meta", Shape(), stored("meta", Shape())).config)
