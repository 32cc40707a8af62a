"""A decoder in int8: within a bound of float32, the same after a file, half of bf16's bytes, refused elsewhere."""

from __future__ import annotations

import copy
import json
import math
import pickle
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import cm3
from cm3.errors import CheckpointError, ConfigError, RequestError
from cm3.files import sha256
from cm3.generate import CM3Leon
from cm3.model import bundle, folder, int8
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.int8 import FBGEMM, TILE, Int8Decoder, Int8Linear, OneDNN, operator, placed, quantise, quantised, reach
from cm3.model.weight_only import FEW
from cm3.train.config import TrainConfig
from cm3.weights import on_device

CHAMELEON: dict[str, Any] = {
    "norm": "rms", "norm_affine": True, "norm_order": "swin", "activation": "swiglu", "positions": "rope",
    "qk_norm": True, "kv_heads": 2, "tied": False, "grid": None,
}  # fmt: skip
SHAPES = [{}, CHAMELEON, {"positions": "learned", "activation": "relu", "grid": (4, 4)}]


def decoder(scale: float = 0.1, **changes: Any) -> Decoder:
    """A decoder whose tokens depend on each other, with an odd vocabulary of more than two tiles."""
    shape = {"vocab_size": 2 * TILE + 77, "d_model": 64, "layers": 2, "heads": 4, "context": 48} | changes
    torch.manual_seed(0)
    return tiny_model.stir(Decoder(DecoderConfig(**shape)), scale=scale).eval()  # type: ignore[arg-type]


def linear(weight: Tensor) -> Int8Linear:
    """An int8 layer of a float one."""
    made = Int8Linear(weight.shape[1], weight.shape[0])
    made.scale = weight.abs().amax(1) / 127
    made.weight = (weight / made.scale[:, None]).round().to(torch.int8)
    return made


def apart(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


@torch.no_grad()
def logits(model: Decoder, n: int = 24, rows: slice | None = None) -> Tensor:
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, model.config.vocab_size, (2, n)))
    cells = torch.arange(n).expand(2, -1) % 17
    return model.head(model.hidden(ids, torch.arange(n).expand(2, -1), Causal(), cells), rows)


def inputs(kind: str, n: int, d: int) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(n))
    if kind == "outliers":
        x[:, ::50] *= 40
    elif kind == "extremes":  # every product of two codes is as large as it can be
        x = x.sign() * 3
    elif kind == "scales":
        x *= 10.0 ** torch.arange(-20, -20 + n)[:, None]
    return x


@pytest.fixture(params=[OneDNN, FBGEMM])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the operators, whichever is taken here."""
    if request.param is FBGEMM and not FBGEMM.is_there():
        pytest.skip("torch has no FBGEMM here")
    most = 63 if request.param is not operator()[0] else reach()
    monkeypatch.setattr(int8, "operator", lambda: (request.param, most))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("kind", ["normal", "outliers", "extremes", "scales"])
@pytest.mark.parametrize("n", [1, 2, 8, 33])
def test_a_layer_is_within_what_rounding_allows(kind: str, n: int) -> None:
    """Each output, within half a step of every activation and every weight; and far within it all together."""
    x = inputs(kind, n, 300)
    weight = torch.randn(130, 300, generator=torch.Generator().manual_seed(1))
    weight[7] *= 1e-3
    weight[8] *= 1e3
    if kind == "extremes":
        weight = weight.sign()
    made = linear(weight)(x).double()
    want = x.double() @ weight.double().t()
    step, own = (x.abs().amax(1, keepdim=True) / reach()).double(), (weight.abs().amax(1) / 127).double()
    bound = step / 2 * weight.double().abs().sum(1) + own / 2 * x.double().abs().sum(1, keepdim=True)
    bound += 300 * step * own / 4
    assert bool(((made - want).abs() <= bound * 1.001).all())
    # Rounding errors are as good as independent: spread evenly over a step, their variance is a twelfth of its square.
    expected = (step**2 / 12 * weight.double().square().sum(1) + own**2 / 12 * x.double().square().sum(1, True)).sqrt()
    usual = [i for i in range(130) if i not in (7, 8)]
    found, allowed, of = ((t[:, usual]).norm(dim=1) for t in (made - want, expected, want))
    assert bool((found <= 1.5 * allowed).all())
    if kind != "outliers":
        assert float((found / of).max()) < {127: 0.025, 63: 0.05}[reach()]


@pytest.mark.usefixtures("either")
def test_a_token_is_quantised_by_itself_and_nothing_is_not_divided_by() -> None:
    x = inputs("scales", 8, 64)
    layer = linear(torch.randn(16, 64))
    assert torch.equal(layer(x)[3:4], layer(x[3:4]))
    assert torch.equal(layer(torch.zeros(2, 64)), torch.zeros(2, 16))
    numbers, peak = quantise(x)
    assert float(numbers.abs().max().round()) == reach() and torch.equal(peak, x.abs().amax(1, keepdim=True))
    assert bool((numbers * (peak / reach()) - x).abs().le(peak * 1e-6).all())
    one = torch.eye(64)  # a layer that gives back what it reads, rounded to codes
    assert bool((linear(one)(x) - numbers.round() * (peak / reach())).abs().le(peak * 1e-6).all())
    assert layer(torch.zeros(0, 64)).shape == (0, 16) and layer(torch.zeros(2, 3, 64)).shape == (2, 3, 16)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_no_number_stays_in_sight(bad: float) -> None:
    x = torch.ones(2, 64)
    x[0, 5] = bad
    out = linear(torch.randn(16, 64))(x)
    assert not bool(out[0].isfinite().any()) and bool(out[1].isfinite().all())


def test_sums_that_overflow_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that adds products in 16 bits gets half the levels; one that is wrong with these too is refused."""
    assert operator.__wrapped__() in [(OneDNN, 127), (FBGEMM, 63), (OneDNN, 63)]
    right = {kind: kind.__call__ for kind in (OneDNN, FBGEMM)}

    def wrong_over(high: int) -> None:
        for kind, inner in right.items():
            monkeypatch.setattr(
                kind, "__call__", lambda self, x, inner=inner: inner(self, x) - float(int(x.max()) > high)
            )

    wrong_over(63)
    assert operator.__wrapped__() == (FBGEMM if FBGEMM.is_there() else OneDNN, 63)
    monkeypatch.setattr(FBGEMM, "is_there", lambda: False)
    assert operator.__wrapped__() == (OneDNN, 63)
    wrong_over(0)
    with pytest.raises(ConfigError, match="^dtype='int8': this processor's operator gives wrong sums; take float32$"):
        operator.__wrapped__()
    monkeypatch.setattr(OneDNN, "__call__", lambda self, x: x @ self.plain().float().t())  # exact, up to 2^24
    assert operator.__wrapped__() == (OneDNN, 127)


@pytest.mark.parametrize("changes", SHAPES)
def test_logits_are_close_and_a_range_is_part_of_all(changes: dict[str, Any]) -> None:
    plain = decoder(**changes)
    want, made = logits(plain), logits(quantised(plain))
    assert made.shape == want.shape and made.dtype == torch.float32
    assert 0 < apart(made, want) < {127: 0.05, 63: 0.1}[reach()]
    for rows in (slice(0, 5), slice(TILE - 3, TILE + 4), slice(2 * TILE, 2 * TILE + 77), slice(70, 2 * TILE + 1)):
        assert torch.equal(logits(quantised(plain), rows=rows), made[..., rows])


@pytest.mark.parametrize("changes", SHAPES)
def test_a_token_is_quantised_once_for_all_that_read_it(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four inputs a block: of q, k and v; of the output; of gate and up; of the way back. The head's, and its rest."""
    counted: list[int] = []
    inner = int8.quantise
    monkeypatch.setattr(int8, "quantise", lambda x: (counted.append(len(x)), inner(x))[1])
    model = quantised(decoder(**changes))
    logits(model, 8)
    assert counted == [16] * (4 * 2 + 2)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_loses_nothing_of_what_it_reads(tied: bool) -> None:
    """Only its weights are rounded: the input, in two parts, is as good as float32."""
    plain = decoder(tied=tied)
    small, x = quantised(plain), inputs("outliers", 5, 64)
    table: Any = small.embed if small.output is None else small.output
    want = x.double() @ (table.weight.double() * table.scale.double()[:, None]).t()
    assert apart(small.head(x).double(), want) < {127: 2e-4, 63: 8e-4}[reach()]
    x[1] = 0
    assert torch.equal(small.head(x)[1], torch.zeros(len(want[1])))


def test_the_model_that_ships_writes_mostly_the_same() -> None:
    """Greedy captions and pictures of the model in the package: most tokens are those of float32."""
    plain, small = cm3.load("scenes"), cm3.load("scenes", dtype="int8")
    assert isinstance(small.decoder, Int8Decoder) and type(plain.decoder) is Decoder
    prompts = ["a large red circle", "a small blue square", "two green triangles"]
    settings: Any = {"seeds": [0, 1, 2], "temperature": 0.0, "guidance": 1.0, "candidates": 1}
    drawn = [model.generate_many(prompts, **settings) for model in (plain, small)]
    pictures = [[np.asarray(one.image) for one in made] for made in drawn]
    told = [
        [one.text for one in model.generate_many([d.image for d in drawn[0]], **settings)] for model in (plain, small)
    ]
    same = [a == b for a, b in zip(*told, strict=True)]
    alike = [bool((abs(a.astype(int) - b) < 40).mean() > 0.8) for a, b in zip(*pictures, strict=True)]
    assert sum(same) >= 2 and sum(alike) >= 2, (told, alike)
    # Logits on what float32 wrote, which errors do not pile up in.
    ids = torch.from_numpy(np.stack([plain.codec.encode(d.document).ids[:60] for d in drawn[0]]))
    at, rows = torch.arange(ids.shape[1]).expand(len(ids), -1), slice(plain.vocab.text_start, plain.vocab.size)
    with torch.no_grad():
        best = [m.decoder.head(m.decoder.hidden(ids, at, Causal()), rows).argmax(-1) for m in (plain, small)]
    assert float((best[0] == best[1]).float().mean()) > 0.8


def saved(path: Path, dtype: torch.dtype, made: bundle.Bundle) -> Path:
    bundle.save(made, path, dtype)
    return path


@pytest.mark.parametrize("changes", SHAPES)
def test_a_bundle_comes_back_bit_for_bit_and_makes_the_same(changes: dict[str, Any], tmp_path: Path) -> None:
    made = tiny_model.bundle(d_model=64, heads=4, **changes)
    want = logits(quantised(made.decoder).pack())
    loaded = bundle.load(saved(tmp_path / "a", torch.int8, made))
    assert isinstance(loaded.decoder, Int8Decoder) and not loaded.decoder.training
    assert torch.equal(logits(loaded.decoder), want)
    # What is packed by now is written as it was read.
    again = saved(tmp_path / "b", torch.int8, loaded)
    for name in (*bundle.FILES, "config.json"):
        assert (again / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert json.loads((again / "config.json").read_text())["decoder_weights"] == "int8"
    bare = bundle.load(again, weights=False).decoder
    assert isinstance(bare, Int8Decoder) and all(t.is_meta for t in bare.state_dict().values())
    made.vqgan = loaded.vqgan
    tokens = CM3Leon(loaded).generate("a red circle", seed=3).document
    assert CM3Leon(made, dtype="int8").generate("a red circle", seed=3).document == tokens
    assert "decoder_weights" not in json.loads(
        (saved(tmp_path / "c", torch.float16, tiny_model.bundle()) / "config.json").read_text()
    )


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_packed_decoder_is_copied_and_takes_other_weights(changes: dict[str, Any], copied: Any) -> None:
    one, other = (quantised(decoder(scale, **changes)) for scale in (0.1, 0.3))
    state, first, want = copy.deepcopy(other.state_dict()), logits(one.pack()), logits(other.pack())
    made = copied(one)
    assert torch.equal(logits(made), first)
    made.blocks[0].register_forward_hook(lambda *_: None)
    assert torch.equal(logits(made), first), "a hook is not called, and breaks nothing"
    made.load_state_dict(state)
    assert torch.equal(logits(made), want) and torch.equal(logits(one), first) and apart(first, want) > 0.1


def test_it_takes_half_the_bytes_of_bf16_on_disk_and_none_twice(tmp_path: Path) -> None:
    made = tiny_model.bundle(d_model=256, heads=4, layers=4, **CHAMELEON | {"grid": (4, 4)})
    half, small = (saved(tmp_path / str(d), d, made) / "decoder.safetensors" for d in (torch.bfloat16, torch.int8))
    assert 0.49 < small.stat().st_size / half.stat().st_size < 0.54
    names = {name: value.dtype for name, value in load_file(small).items()}
    assert {d for n, d in names.items() if n.endswith(".weight") and "norm" not in n} == {torch.int8}
    assert {d for n, d in names.items() if n.endswith(".scale")} == {torch.float32}
    loaded = bundle.load(small.parent).decoder
    assert isinstance(loaded, Int8Decoder)
    loaded.pack()
    layers = [layer for layer in loaded.modules() if isinstance(layer, Int8Linear)]
    assert len(layers) == 4 * 4 and all(layer.weight.numel() == 0 for layer in layers), "plain beside packed"


def test_a_spoilt_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", torch.int8, tiny_model.bundle())
    config = json.loads((path / "config.json").read_text())

    def sign(**changes: Any) -> None:
        page = config | changes
        page["files"] = config["files"] | {"decoder.safetensors": sha256(path / "decoder.safetensors")}
        page["checksum"] = folder.checksum(page)
        (path / "config.json").write_text(json.dumps(page))

    for kind in ("int4", 3, None):  # without it, a file of float weights is looked for
        sign(decoder_weights=kind)
        refused: Any = (
            "is stored as I8; restore the file" if kind is None else f"decoder_weights={kind!r}; this version"
        )
        with pytest.raises(CheckpointError, match=refused):
            bundle.load(path)
    tensors = load_file(path / "decoder.safetensors")
    for name, value, message in (
        ("blocks.0.qkv.weight", tensors["blocks.0.qkv.weight"].float(), "is stored as F32; restore the file"),
        ("blocks.0.qkv.weight", tensors["blocks.0.qkv.weight"][:5], "has shape .5, 32., config.json says .96, 32."),
        ("embed.scale", tensors["embed.scale"] * math.nan, "embed.scale has values that are not finite"),
    ):
        save_file(tensors | {name: value.contiguous()}, path / "decoder.safetensors")
        sign()
        with pytest.raises(CheckpointError, match=message):
            bundle.load(path)


def test_no_other_type_is_made_of_it(tmp_path: Path) -> None:
    small = bundle.load(saved(tmp_path / "a", torch.int8, tiny_model.bundle()))
    with pytest.raises(
        ConfigError, match="the decoder is in int8, of which float16 makes nothing better; save it in int8"
    ):
        bundle.save(small, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    for dtype in ("float32", torch.bfloat16):
        with pytest.raises(
            ConfigError, match=r"^dtype='\w+': the model's weights are in int8; leave dtype out, or load"
        ):
            CM3Leon(small, dtype=dtype)
    for given in (None, "auto", "int8", torch.int8):
        assert CM3Leon(small, dtype=given).decoder is small.decoder
    broken = tiny_model.bundle()
    with torch.no_grad():
        broken.decoder.blocks[0].wo.weight[0, 0] = math.inf  # type: ignore[union-attr]
    for make in (lambda: bundle.save(broken, tmp_path / "b", torch.int8), lambda: CM3Leon(broken, dtype="int8")):
        with pytest.raises(
            ConfigError, match=r"^blocks.0.wo.weight: has values that are not finite, which int8 cannot"
        ):
            make()


@pytest.mark.parametrize("device", ["mps", "nowhere", "xpu:1", torch.device("meta")])
def test_it_computes_on_a_processor_and_cuda_alone(device: Any) -> None:
    made = tiny_model.bundle()
    with pytest.raises(
        ConfigError, match=r"^device='[\w:]+': int8 computes on cpu and cuda alone; give one, or another"
    ):
        CM3Leon(made, device=device, dtype="int8")
    assert type(made.decoder) is Decoder
    assert isinstance(placed(made.decoder, "cpu", "int8"), Int8Decoder)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of codes as they are, whose operator a processor has too."""
    monkeypatch.setattr(int8, "reads_codes", lambda device: True)


@pytest.mark.parametrize("n", [8, 24])
@pytest.mark.parametrize("changes", SHAPES)
def test_weights_alone_in_int8_as_on_a_gpu_are_closer(
    changes: dict[str, Any], n: int, request: pytest.FixtureRequest
) -> None:
    """Of 16 tokens, which go to the operator, and of 48, which go to a product of matrices."""
    plain = decoder(**changes)
    want, packed = logits(plain, n), logits(quantised(plain), n)
    request.getfixturevalue("as_on_a_gpu")
    made = quantised(plain)
    found = logits(made.pack(), n)
    assert found.dtype == torch.float32 and 0 < apart(found, want) < min(0.05, 1.1 * apart(packed, want))
    assert not made._tiles and all(block.qkv._packed is None for block in made.blocks)  # type: ignore[union-attr]
    for rows in (slice(0, 5), slice(TILE - 3, TILE + 4), slice(70, 2 * TILE + 1)):
        torch.testing.assert_close(logits(made, n, rows), found[..., rows], rtol=1e-3, atol=1e-3)
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), on_device(made, "cpu")):
        assert torch.equal(logits(copied, n), found)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_weights_alone_are_those_that_the_scales_and_codes_make() -> None:
    made = linear(torch.randn(48, 64, generator=torch.Generator().manual_seed(0)))
    for n in (1, FEW, FEW + 1, 40):
        x = inputs("outliers", 2 * n, 64)[::2]
        want = x.double() @ (made.weight.double() * made.scale.double()[:, None]).t()
        assert apart(made(x).double(), want) < (1e-5 if n <= FEW else 5e-3)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_bundle_in_int8_is_drawn_with_as_on_a_gpu(tmp_path: Path) -> None:
    small = bundle.load(saved(tmp_path / "a", torch.int8, tiny_model.bundle()))
    found = CM3Leon(small).generate("a red circle", seed=3)
    assert isinstance(small.decoder, Int8Decoder) and not small.decoder._tiles and found.image
    again = saved(tmp_path / "b", torch.int8, small)
    for name in bundle.FILES:
        assert (again / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_a_packed_decoder_that_is_moved_is_packed_anew() -> None:
    made = quantised(decoder())
    want = logits(made)
    made.to("cpu")
    assert not made._tiles and made.blocks[0].wo._packed is None  # type: ignore[union-attr]
    assert torch.equal(logits(made), want)


def test_a_torch_without_the_operator_for_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: key != "CUDA")
    with pytest.raises(ConfigError, match=r"^dtype='int8': torch 2\S+ has no operator _weight_int8pack_mm for cuda; i"):
        CM3Leon(tiny_model.bundle(), device="cuda", dtype="int8")


@pytest.mark.parametrize("lacking", int8.OPERATORS)
def test_a_torch_without_the_operators_is_told(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = types.SimpleNamespace(
        **{name: getattr(torch.ops.onednn, name) for name in int8.OPERATORS if name != lacking}
    )
    monkeypatch.setattr(int8.torch.ops, "onednn", there)
    made = tiny_model.bundle()
    with pytest.raises(ConfigError, match=rf"^dtype='int8': torch 2\S+ has no operator onednn.{lacking} for this proc"):
        CM3Leon(made, dtype="int8")
    assert type(made.decoder) is Decoder


def test_a_torch_without_onednn_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="has no operator onednn.qlinear_prepack for this processor; install a build"):
        CM3Leon(tiny_model.bundle(), dtype="int8")


def test_it_is_not_trained() -> None:
    with pytest.raises(
        ConfigError, match="^dtype='int8': is for drawing alone; train the model in float32 or bfloat16$"
    ):
        quantised(decoder()).train()
    with pytest.raises(ConfigError, match="^dtype='int8': must be one of auto, float32, bfloat16"):
        TrainConfig(out="x", dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^dtype='int8': must be one of auto, float32, bfloat16, float16\.$"):
        on_device(nn.Linear(2, 2), "cpu", "int8")
    assert not any(p.requires_grad for p in quantised(decoder(**CHAMELEON)).parameters())


def test_a_model_gone_wrong_is_still_noticed() -> None:
    """Weights that overflow give logits that are no numbers, as in float32, and the request is refused."""
    made = tiny_model.bundle(tied=False)
    model = CM3Leon(made, dtype="int8")
    embed: Any = model.decoder.embed
    embed.scale.fill_(3e38)
    with pytest.raises(RequestError, match="logits that are not finite"):
        model.generate("a red circle")
