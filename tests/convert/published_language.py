"""Language models of Chameleon's family in the layouts that their owners publish, small, with random weights.

Written from the published layouts, not from the converter: `Whole` holds a model as Meta's program computes it, with
rotary positions in pairs and one query-key norm for each shard; `meta`, `transformers`, `anole` and `lumina` store it;
`meta_logits` computes it, each shard for itself with sums over shards where Meta's program has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Shape:
    """Numbers of a model."""

    vocab: int = 96
    dim: int = 32
    layers: int = 2
    heads: int = 8
    kv: int = 8
    hidden: int = 48
    shards: int = 1
    swin: bool = False
    theta: float = 10_000.0
    tied: bool = False

    @property
    def width(self) -> int:
        """Numbers of one head."""
        return self.dim // self.heads


@dataclass
class Whole:
    """A model: matrices whole, `q_norms` and so on with one row for each shard, (shards, width), in pairs."""

    shape: Shape
    outer: dict[str, Tensor]
    layers: list[dict[str, Tensor]]


def whole(shape: Shape, seed: int = 0, dtype: torch.dtype = torch.float32) -> Whole:
    """A model with random weights, so large that every part of it moves the logits."""
    g = torch.Generator().manual_seed(seed)

    def draw(*size: int, scale: float = 0.3, mean: float = 0.0) -> Tensor:
        return (torch.randn(*size, generator=g) * scale + mean).to(dtype)

    s, d, k = shape, shape.dim, shape.width
    layers = [
        {
            "wq": draw(s.heads * k, d), "wk": draw(s.kv * k, d), "wv": draw(s.kv * k, d), "wo": draw(d, s.heads * k),
            "w1": draw(s.hidden, d), "w3": draw(s.hidden, d), "w2": draw(d, s.hidden),
            "attention_norm": draw(d, mean=1), "ffn_norm": draw(d, mean=1),
            "q_weight": draw(s.shards, k, mean=1), "q_bias": draw(s.shards, k),
            "k_weight": draw(s.shards, k, mean=1), "k_bias": draw(s.shards, k),
        }
        for _ in range(s.layers)
    ]  # fmt: skip
    outer = {"embed": draw(s.vocab, d, scale=1.0), "norm": draw(d, mean=1), "output": draw(s.vocab, d)}
    if s.tied:
        outer["output"] = outer["embed"].clone()
    return Whole(shape, outer, layers)


def meta(model: Whole) -> list[dict[str, Any]]:
    """What consolidated.NN.pth hold, one dict each. One shard has rope.freqs as None, as Anole's file has."""
    n = model.shape.shards
    shards: list[dict[str, Any]] = []
    for i in range(n):
        made: dict[str, Any] = {
            "tok_embeddings.weight": model.outer["embed"].chunk(n, 1)[i].clone(),
            "norm.weight": model.outer["norm"].clone(),
            "output.weight": model.outer["output"].chunk(n, 0)[i].clone(),
            "rope.freqs": None if n == 1 else torch.ones(model.shape.width // 2),
        }
        for j, layer in enumerate(model.layers):
            at = f"layers.{j}."
            for name in ("wq", "wk", "wv"):
                made[f"{at}attention.{name}.weight"] = layer[name].chunk(n, 0)[i].clone()
            made[f"{at}attention.wo.weight"] = layer["wo"].chunk(n, 1)[i].clone()
            for name in ("w1", "w3"):
                made[f"{at}feed_forward.{name}.weight"] = layer[name].chunk(n, 0)[i].clone()
            made[f"{at}feed_forward.w2.weight"] = layer["w2"].chunk(n, 1)[i].clone()
            for name in ("attention_norm", "ffn_norm"):
                made[f"{at}{name}.weight"] = layer[name].clone()
            for name in ("q", "k"):
                for kind in ("weight", "bias"):
                    made[f"{at}attention.{name}_normalization.{kind}"] = layer[f"{name}_{kind}"][i].clone()
        shards.append(made)
    return shards


def meta_params(shape: Shape) -> tuple[dict[str, Any], dict[str, Any]]:
    """What params.json and consolidate_params.json say."""
    model = {
        "dim": shape.dim, "n_layers": shape.layers, "n_heads": shape.heads, "multiple_of": shape.hidden,
        "ffn_dim_multiplier": shape.hidden / (8 * shape.dim / 3) * 0.999, "norm_eps": 1e-5,
        "rope_theta": shape.theta, "qk_normalization": True, "swin_norm": shape.swin, "vocab_size": shape.vocab,
    }  # fmt: skip
    if shape.kv != shape.heads:
        model["n_kv_heads"] = shape.kv
    return {"model": model, "seed": 1}, {"model_parallel_size": shape.shards}


def to_halves(row: Tensor) -> Tensor:
    """The numbers of one head, (width, ...): the even ones, then the odd ones."""
    return torch.cat([row[0::2], row[1::2]])


def _by_head(matrix: Tensor, heads: int) -> Tensor:
    return torch.cat([to_halves(rows) for rows in matrix.chunk(heads)])


def _named(model: Whole, halved: bool) -> dict[str, Tensor]:
    s = model.shape
    made = {"model.embed_tokens.weight": model.outer["embed"], "model.norm.weight": model.outer["norm"]}
    if not s.tied:
        made["lm_head.weight"] = model.outer["output"]
    for j, layer in enumerate(model.layers):
        at = f"model.layers.{j}."
        q, k = layer["wq"], layer["wk"]
        made[f"{at}self_attn.q_proj.weight"] = _by_head(q, s.heads) if halved else q
        made[f"{at}self_attn.k_proj.weight"] = _by_head(k, s.kv) if halved else k
        made[f"{at}self_attn.v_proj.weight"] = layer["wv"]
        made[f"{at}self_attn.o_proj.weight"] = layer["wo"]
        made[f"{at}mlp.gate_proj.weight"] = layer["w1"]
        made[f"{at}mlp.up_proj.weight"] = layer["w3"]
        made[f"{at}mlp.down_proj.weight"] = layer["w2"]
        made[f"{at}input_layernorm.weight"] = layer["attention_norm"]
        made[f"{at}post_attention_layernorm.weight"] = layer["ffn_norm"]
    return {name: value.clone() for name, value in made.items()}


def _norms(model: Whole, store: Any) -> dict[str, Tensor]:
    return {
        f"model.layers.{j}.self_attn.{name}_norm.{kind}": store(layer[f"{name}_{kind}"], heads)
        for j, layer in enumerate(model.layers)
        for name, heads in (("q", model.shape.heads), ("k", model.shape.kv))
        for kind in ("weight", "bias")
    }


def transformers(model: Whole) -> dict[str, Tensor]:
    """The state of transformers' `ChameleonForConditionalGeneration`, less its image tokenizer."""

    def store(rows: Tensor, heads: int) -> Tensor:
        each = [to_halves(row) for row in rows for _ in range(heads // len(rows))]
        return torch.stack(each)

    return _named(model, True) | _norms(model, store)


def lumina(model: Whole) -> dict[str, Tensor]:
    """The state of Lumina-mGPT 1: norms (model_parallel_size, width)."""
    return _named(model, True) | _norms(model, lambda rows, _: torch.stack([to_halves(row) for row in rows]))


def anole(model: Whole) -> dict[str, Tensor]:
    """The state of Anole's fork of transformers: one norm of each kind, rows as Meta has them."""
    return _named(model, False) | _norms(model, lambda rows, _: rows[0].clone())


def hf_config(shape: Shape, **more: Any) -> dict[str, Any]:
    """What config.json says in transformers' layouts."""
    return {
        "architectures": ["ChameleonForConditionalGeneration"], "model_type": "chameleon", "vocab_size": shape.vocab,
        "hidden_size": shape.dim, "intermediate_size": shape.hidden, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv, "hidden_act": "silu",
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": shape.theta, "rope_scaling": None,
        "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": shape.tied, "swin_norm": shape.swin,
        "model_parallel_size": shape.shards,
    } | more  # fmt: skip


# Arithmetic


def meta_logits(shape: Shape, shards: list[dict[str, Any]], ids: Tensor) -> Tensor:
    """Logits (s, v) of ids (s,), as Meta's program computes them: each shard its own heads, columns and ids."""
    n, k = len(shards), shape.width
    x = torch.cat([shard["tok_embeddings.weight"][ids] for shard in shards], dim=-1)

    def rms(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    def attention(shard: dict[str, Any], at: str, x: Tensor) -> Tensor:
        def heads(name: str) -> Tensor:
            return (x @ shard[f"{at}attention.{name}.weight"].T).view(len(x), -1, k).transpose(0, 1)

        def normed(x: Tensor, name: str) -> Tensor:
            prefix = f"{at}attention.{name}_normalization"
            return F.layer_norm(x, (k,), shard[f"{prefix}.weight"], shard[f"{prefix}.bias"], 1e-5)

        q, key, v = pairs_turned(normed(heads("wq"), "q"), shape.theta), normed(heads("wk"), "k"), heads("wv")
        key = pairs_turned(key, shape.theta)
        key, v = (y.repeat_interleave(shape.heads // shape.kv, 0) for y in (key, v))
        scores = q @ key.transpose(1, 2) / k**0.5
        scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), float("-inf"))
        out = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1)
        return out @ shard[f"{at}attention.wo.weight"].T

    def forward(shard: dict[str, Any], at: str, x: Tensor) -> Tensor:
        gate, up, down = (shard[f"{at}feed_forward.{name}.weight"] for name in ("w1", "w3", "w2"))
        return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T

    for j in range(shape.layers):
        at = f"layers.{j}."
        norm1, norm2 = shards[0][f"{at}attention_norm.weight"], shards[0][f"{at}ffn_norm.weight"]
        if shape.swin:
            x = x + rms(sum(attention(shards[i], at, x) for i in range(n)), norm1)
            x = x + rms(sum(forward(shards[i], at, x) for i in range(n)), norm2)
        else:
            h = rms(x, norm1)
            x = x + sum(attention(shards[i], at, h) for i in range(n))
            h = rms(x, norm2)
            x = x + sum(forward(shards[i], at, h) for i in range(n))
    h = rms(x, shards[0]["norm.weight"])
    return torch.cat([h @ shard["output.weight"].T for shard in shards], dim=-1)


def pairs_turned(x: Tensor, theta: float) -> Tensor:
    """Rotary positions of (heads, s, k): numbers 2i and 2i + 1 as one complex number, turned by its place."""
    rate = 1.0 / theta ** (torch.arange(0, x.shape[-1], 2).double() / x.shape[-1])
    angle = torch.arange(x.shape[1]).double()[:, None] * rate
    turn = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
    return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous()) * turn).reshape(
        x.shape
    )
