"""The decoder: its parts against their definitions, its initialisation, and the causality of every configuration."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_model import stir
from torch import Tensor

from cm3.errors import ConfigError
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder, DecoderConfig, HeadNorm, near_marks, rotary_angles
from cm3.model.kernels import rotate
from cm3.model.sizes import parameters

BASE = {"vocab_size": 61, "d_model": 16, "layers": 2, "heads": 4, "context": 24}
STYLES: dict[str, dict[str, Any]] = {
    "paper": {},
    "relu": {"activation": "relu", "hidden": 40},
    "affine": {"norm_affine": True},
    "rms": {"norm": "rms", "norm_affine": True, "activation": "swiglu", "hidden": 24},
    "chameleon": {
        "norm": "rms", "norm_affine": True, "activation": "swiglu", "positions": "rope", "qk_norm": True,
        "norm_order": "swin", "tied": False, "kv_heads": 2,
    },
    "ours": {"positions": "rope", "qk_norm": True, "grid": (3, 5)},
    "near": {"positions": "rope", "qk_norm": True, "grid": (3, 5), "near": 2.0, "heads": 2},
    "grouped": {"kv_heads": 1, "grid": (2, 2), "tied": False},
    "wide": {"hidden": 7, "kv_heads": 2, "qk_norm": True},
}  # fmt: skip
style = pytest.mark.parametrize("changes", STYLES.values(), ids=STYLES.keys())


def make(changes: dict[str, Any], fresh: bool = False) -> Decoder:
    """A decoder of a style in float64, with random matrices unless `fresh`."""
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(**BASE | changes))
    return (decoder if fresh else stir(decoder)).double()


def inputs(b: int = 2, s: int = 12, cells: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """ids, positions, cells."""
    g = torch.Generator().manual_seed(1)
    places = torch.randint(0, cells + 1, (b, s), generator=g)
    return torch.randint(61, (b, s), generator=g), torch.arange(s).expand(b, -1), places


@style
def test_parameters_by_arithmetic(changes: dict[str, Any]) -> None:
    decoder = make(changes)
    assert parameters(decoder.config) == sum(p.numel() for p in decoder.parameters())


@style
def test_shapes_and_what_they_mean(changes: dict[str, Any]) -> None:
    decoder = make(changes)
    ids, positions, cells = inputs()
    hidden = decoder.hidden(ids, positions, Causal(), cells)
    logits = decoder(ids, positions, Causal(), cells)
    assert hidden.shape == (2, 12, 16) and logits.shape == (2, 12, 61)
    torch.testing.assert_close(decoder.head(hidden), logits)
    torch.testing.assert_close(decoder.head(hidden, slice(7, 19)), logits[..., 7:19])
    matrix = decoder.embed.weight if decoder.config.tied else decoder.output.weight
    torch.testing.assert_close(hidden @ matrix.T, logits)
    assert (decoder.output is None) == decoder.config.tied


@style
def test_the_future_does_not_matter_and_the_past_does(changes: dict[str, Any]) -> None:
    decoder = make(changes)
    ids, positions, cells = inputs(1)
    before = decoder(ids, positions, Causal(), cells)
    other = ids.clone()
    other[0, 5] = (other[0, 5] + 1) % 61
    after = decoder(other, positions, Causal(), cells)
    assert torch.equal(before[0, :5], after[0, :5])
    assert ((before - after).abs().amax(-1)[0, 5:] > 1e-6).all()


@style
def test_at_first_each_token_sees_only_itself(changes: dict[str, Any]) -> None:
    """Residual outputs start at zero, so the logits are those of the embedding alone."""
    decoder = make(changes, fresh=True)
    ids, positions, cells = inputs()
    logits = decoder(ids, positions, Causal(), cells)
    for i in (0, 7, 11):
        alone = decoder(ids[:, i : i + 1], positions[:, i : i + 1], Causal(), cells[:, i : i + 1])
        torch.testing.assert_close(logits[:, i : i + 1], alone)
    # And all of it can learn: after two steps no matrix is without a gradient.
    optimizer = torch.optim.SGD(decoder.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(decoder(ids, positions, Causal(), cells).flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
        optimizer.step()
    still = [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_initialisation_is_the_papers() -> None:
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(vocab_size=512, d_model=64, layers=2, heads=4, context=256, grid=(8, 8)))
    # No biases and no norm parameters: every parameter is a matrix.
    assert all(p.dim() == 2 for p in decoder.parameters())
    # A normal cut at three sigma has 0.9866 of its deviation.
    for name, parameter in decoder.named_parameters():
        p = parameter.detach()
        if name.endswith(("wo.weight", "down.weight")):
            assert not p.any()
            continue
        std = 0.0002 if name.startswith(("position", "row", "column")) else 0.006
        values = p[1:] if name.startswith(("row", "column")) else p
        spread = 0.03 if values.numel() > 4000 else 0.12
        assert float(values.std()) == pytest.approx(0.9866 * std, rel=spread), name
        assert float(values.abs().max()) <= 3 * std and abs(float(values.mean())) < 0.2 * std, name
    assert not decoder.row.weight[0].any() and not decoder.column.weight[0].any()


def test_the_same_seed_gives_the_same_bytes() -> None:
    a, b = make(STYLES["ours"], fresh=True), make(STYLES["ours"], fresh=True)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_rotary_positions_are_relative() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, 1, 8, generator=g, dtype=torch.float64) for _ in range(2))

    def score(at: int, to: int) -> Tensor:
        turned = [
            rotate(x, *rotary_angles(torch.tensor([[p]]), 8, 10_000.0, torch.float64)) for x, p in ((q, at), (k, to))
        ]
        return (turned[0] * turned[1]).sum(-1)

    torch.testing.assert_close(score(9, 4), score(25, 20), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(score(9, 4), score(9, 5))
    # Position 0 turns nothing, and no position changes a length.
    torch.testing.assert_close(rotate(q, *rotary_angles(torch.tensor([[0]]), 8, 10_000.0, torch.float64)), q)
    turned = rotate(q, *rotary_angles(torch.tensor([[17]]), 8, 10_000.0, torch.float64))
    torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1), rtol=1e-6, atol=1e-6)


def test_a_rotary_decoder_depends_on_distances_only() -> None:
    decoder = make({"positions": "rope"})
    ids, positions, _ = inputs()
    shifted = decoder(ids, positions + 7, Causal())
    torch.testing.assert_close(shifted, decoder(ids, positions, Causal()), rtol=1e-4, atol=1e-4)
    learned = make({})
    assert not torch.allclose(learned(ids, positions + 7, Causal()), learned(ids, positions, Causal()))


def test_head_norm_is_layer_norm_head_by_head() -> None:
    norm = HeadNorm(3, 8, 1e-5).double()
    torch.manual_seed(0)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64) * 7 + 3
    for h in range(3):
        want = F.layer_norm(x[:, h], (8,), norm.weight[h], norm.bias[h], 1e-5)
        torch.testing.assert_close(norm(x)[:, h], want)


def test_qk_norm_bounds_the_scores() -> None:
    decoder = make({"qk_norm": True})
    with torch.no_grad():
        decoder.blocks[0].wq.weight.mul_(1e3)
    seen: list[Tensor] = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append((q @ k.transpose(-1, -2)).abs().max() / math.sqrt(q.shape[-1]))
        return Causal()(layer, q, k, v)

    ids, positions, _ = inputs()
    decoder(ids, positions, attend)
    # Normed vectors of width 4 have length 2: a score is at most 2 * 2 / 2.
    assert len(seen) == 2 and max(float(s.detach()) for s in seen) <= 2.0 + 1e-6


def test_grouped_heads_are_repeated_heads() -> None:
    grouped, full = make({"kv_heads": 2, "qk_norm": True}), make({"qk_norm": True})
    weights = grouped.state_dict()
    for name, value in weights.items():
        if name.endswith(("wk.weight", "wv.weight")):
            weights[name] = value.view(2, 4, 16).repeat_interleave(2, 0).reshape(16, 16)
        elif "k_norm" in name:
            weights[name] = value.repeat_interleave(2, 0)
    full.load_state_dict(weights)
    ids, positions, _ = inputs()
    torch.testing.assert_close(grouped(ids, positions, Causal()), full(ids, positions, Causal()))
    shapes = []
    grouped(ids, positions, lambda layer, q, k, v: shapes.append((q.shape, k.shape, v.shape)) or q)
    assert shapes == [((2, 4, 12, 4), (2, 2, 12, 4), (2, 2, 12, 4))] * 2, "once for each group, to be kept so"


def test_the_two_orders_of_the_norms() -> None:
    """Pre: h + attn(norm(h)). Swin: h + norm(attn(h))."""
    ids, positions, _ = inputs()
    for order in ("pre", "swin"):
        decoder = make({"norm_order": order, "layers": 1, "norm_affine": True})
        with torch.no_grad():
            for norm in (decoder.blocks[0].norm1, decoder.blocks[0].norm2):
                norm.weight.uniform_(0.5, 2)
        block = decoder.blocks[0]
        x = decoder.embed(ids) + decoder.position(positions)
        if order == "pre":
            h = x + block.attention(block.norm1(x), 0, None, Causal())
            h = h + block.feed_forward(block.norm2(h))
        else:
            h = x + block.norm1(block.attention(x, 0, None, Causal()))
            h = h + block.norm2(block.feed_forward(h))
        torch.testing.assert_close(decoder.hidden(ids, positions, Causal()), decoder.norm(h))


def test_feed_forward_by_its_formula() -> None:
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for activation in ("gelu", "relu", "swiglu"):
        block = make({"activation": activation}).blocks[0]
        up = x @ block.up.weight.T
        inner = {"gelu": F.gelu(up), "relu": up.clamp_min(0)}.get(activation)
        if inner is None:
            gate = x @ block.gate.weight.T
            inner = gate * gate.sigmoid() * up
        torch.testing.assert_close(block.feed_forward(x), inner @ block.down.weight.T)


@style
def test_one_token_at_a_time_gives_the_same(changes: dict[str, Any]) -> None:
    """Any `attend` that shows a token its past will do; here the simplest cache."""
    decoder = make(changes)
    ids, positions, cells = inputs()
    keys: dict[int, list[Tensor]] = {}
    values: dict[int, list[Tensor]] = {}

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys.setdefault(layer, []).append(k)
        values.setdefault(layer, []).append(v)
        past = torch.cat(keys[layer], 2), torch.cat(values[layer], 2)
        return F.scaled_dot_product_attention(q, *past, enable_gqa=True)

    steps = [decoder(ids[:, [i]], positions[:, [i]], attend, cells[:, [i]]) for i in range(ids.shape[1])]
    torch.testing.assert_close(torch.cat(steps, 1), decoder(ids, positions, Causal(), cells))


def test_grid_embeddings_touch_codes_only() -> None:
    decoder = make({"grid": (3, 5)})
    ids, positions, _ = inputs(1)
    none = torch.zeros_like(ids)
    plain = decoder(ids, positions, Causal(), none)
    torch.testing.assert_close(decoder(ids, positions, Causal()), plain)
    cells = none.clone()
    cells[0, 4] = 1 + 2 * 5 + 3  # row 2, column 3
    with torch.no_grad():
        before = decoder.hidden(ids, positions, Causal(), none)
        placed = decoder.hidden(ids, positions, Causal(), cells)
        assert torch.equal(before[0, :4], placed[0, :4]) and not torch.allclose(before[0, 4], placed[0, 4])
        # Row 2 is entry 3 of its table, column 3 entry 4 of its own: entry 0 is for what is no code.
        decoder.row.weight[3].zero_()
        decoder.column.weight[4].zero_()
    torch.testing.assert_close(decoder(ids, positions, Causal(), cells), plain)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_words_take_in_near_words(kind: torch.dtype) -> None:
    decoder = make({"positions": "rope", "grid": (3, 5), "near": 3.0, "d_model": 32, "context": 900}).to(kind)
    length = 600
    ids = torch.randint(61, (1, length), generator=torch.Generator().manual_seed(2))
    positions, cells = torch.arange(length)[None], torch.zeros_like(ids)
    cells[0, 301:540] = torch.arange(239) % 15 + 1
    x = decoder.embed(ids)
    assert decoder.near is not None
    with torch.no_grad():
        decoder.near.copy_(torch.linspace(-1, 2, 32))
        taken = (decoder._near(x, decoder._marks_of(positions, x.dtype), Causal(), cells) * decoder.near)[0]
    back = positions[0, :, None] - positions[0]
    words = (back >= 0) & (cells[0] == 0)
    weights = torch.where(words, (-(back**2) / (2 * 3.0**2)).exp(), 0.0)
    want = ((weights / weights.sum(-1, keepdim=True)) @ x[0].float() * decoder.near.float())[cells[0] == 0]
    off = ((taken.float()[cells[0] == 0] - want).abs() / want.abs().mean()).detach()
    # Scores of marks in bfloat16 are right to some tenths.
    assert float(off.mean()) < (0.25 if kind == torch.bfloat16 else 0.01)
    assert bool((taken[cells[0] > 0] == 0).all())


def test_far_words_weigh_nothing() -> None:
    marks = near_marks(torch.arange(4097)[None], 4.0, 64, torch.float64)[0]
    less = marks[-1] @ (marks[-1:] - marks).T / 8
    back = torch.arange(4096, -1, -1)
    torch.testing.assert_close(less[-9:], back[-9:].double() ** 2 / 32, atol=0.01, rtol=0.01)
    assert bool((less[back >= 30] > 8).all())


def test_every_cell_has_its_own_place() -> None:
    decoder = make({"grid": (3, 5), "layers": 1})
    seen = set()
    for cell in range(16):
        args = torch.tensor([[7]]), torch.tensor([[0]]), Causal(), torch.tensor([[cell]])
        seen.add(tuple(decoder.hidden(*args)[0, 0].tolist()))
    assert len(seen) == 16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 0}, "decoder.vocab_size=0: must be at least 1"),
        ({"layers": 0}, "decoder.layers=0: must be at least 1"),
        ({"context": -1}, "decoder.context=-1: must be at least 1"),
        ({"d_model": 30}, "decoder.d_model=30: must be a multiple of heads=4"),
        ({"d_model": 12, "positions": "rope"}, "decoder.heads=4: d_model / heads = 3 must be even for rope"),
        ({"kv_heads": 3}, "decoder.kv_heads=3: must divide heads=4"),
        ({"kv_heads": 0}, "decoder.kv_heads=0: must divide heads=4"),
        ({"hidden": 0}, "decoder.hidden=0: must be at least 1"),
        ({"activation": "silu"}, "decoder.activation='silu': must be one of gelu, relu, swiglu"),
        ({"norm": "batch"}, "decoder.norm='batch': must be one of layer, rms"),
        ({"norm_order": "post"}, "decoder.norm_order='post': must be one of pre, swin"),
        ({"positions": "alibi"}, "decoder.positions='alibi': must be one of learned, rope"),
        ({"grid": (4,)}, r"decoder.grid=\(4,\): must be \(rows, columns\), each at least 1"),
        ({"grid": [0, 4]}, r"decoder.grid=\(0, 4\): must be \(rows, columns\)"),
        ({"near": -1.0}, "decoder.near=-1.0: is a distance in tokens, must be 0, or in 0.5..4"),
        ({"near": float("nan")}, "decoder.near=nan: is a distance in tokens"),
        (
            {"near": 4.0},
            "decoder.near=4.0: needs heads of a width of at least 6, and as many key heads",
        ),
        ({"near": 4.0, "heads": 2, "kv_heads": 1}, "decoder.near=4.0: needs heads"),
        ({"near": 5.0, "heads": 2}, "decoder.near=5.0: is a distance in tokens, must be 0, or in 0.5..4"),
        (
            {"near": 4.0, "heads": 2, "context": 5000},
            "decoder.near=4.0: tells far words from near ones in up to 4096 tokens; give 0, or context=5000 as 4096",
        ),
        ({"init_std": 0.0}, "decoder.init_std=0.0: must be over 0"),
        ({"position_std": -1.0}, "decoder.position_std=-1.0: must be over 0"),
    ],
)
def test_config_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DecoderConfig(**BASE | values)


def test_config_comes_back_from_json() -> None:
    config = DecoderConfig(**BASE | STYLES["ours"])
    assert DecoderConfig(**config.to_dict()) == config
    assert DecoderConfig(**config.to_dict() | {"grid": [3, 5]}) == config
