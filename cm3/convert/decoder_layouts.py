"""Layouts of Chameleon's language model, told apart by their tensors, and the way from each to ours and back.

    meta          layers.0.attention.wq.weight: rows of q and k in pairs, one q norm and one k norm (k,) in each of the
                  files that the model is cut into
    transformers  model.layers.0.self_attn.q_proj.weight: rows in halves, norms (h, k)
    anole         the same names, of Anole's fork of transformers: rows in pairs, norms (k,)
    lumina        the same names, of Lumina-mGPT 1: rows in halves, norms (groups, k)

Rotary positions turn the two numbers of a pair against each other: numbers 2i and 2i + 1 of a head, or, in halves,
i and i + k/2. Ours are halves with a norm for each head. A layout is a list of pieces, each made of whole weights of
ours when it is written: so no more than one weight is held at once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cm3.convert.decoder_settings import Settings
from cm3.convert.problems import some
from cm3.errors import CheckpointError, ConfigError
from cm3.model.decoder import DecoderConfig

Family = Literal["meta", "transformers", "anole", "lumina"]
Held = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Name of a tensor -> its shape and type, as a file's header has them."""

APART = 1 / 64
"""Copies of a norm in several files may differ by this part of their largest number: a few roundings of bfloat16."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_IGNORED = re.compile(r"rope\.freqs|.*\.rotary_emb\.inv_freq|model\.vqmodel\..*")
_INDEX = re.compile(r"(?:model\.)?layers\.(\d{1,9})\.")
_FUSED = re.compile(r"layers\.\d+\.(?:attention\.wqkv|feed_forward\.w13)\.weight")


class Layout(NamedTuple):
    """Describe one way to store the model: its family, the files it is cut into, its groups of query-key norms.

    For Meta's files both numbers are one.
    """

    family: Family
    shards: int = 1
    groups: int = 1

    @property
    def pairs(self) -> bool:
        """Tell whether rows of q and k lie in pairs."""
        return self.family in ("meta", "anole")


class _Part(NamedTuple):
    """One weight: its names, the dimension that Meta's files cut, and whose heads its rows are."""

    ours: str
    meta: str
    named: str
    cut: int | None
    heads: Literal["", "q", "k"] = ""

    @property
    def is_head_norm(self) -> bool:
        """Tell whether it is of a query-key norm."""
        return self.ours.startswith(("q_norm", "k_norm"))


_OUTER = (
    _Part("embed.weight", "tok_embeddings.weight", "model.embed_tokens.weight", 1),
    _Part("norm.weight", "norm.weight", "model.norm.weight", None),
    _Part("output.weight", "output.weight", "lm_head.weight", 0),
)
_LAYER = (
    _Part("wq.weight", "attention.wq.weight", "self_attn.q_proj.weight", 0, "q"),
    _Part("wk.weight", "attention.wk.weight", "self_attn.k_proj.weight", 0, "k"),
    _Part("wv.weight", "attention.wv.weight", "self_attn.v_proj.weight", 0),
    _Part("wo.weight", "attention.wo.weight", "self_attn.o_proj.weight", 1),
    _Part("gate.weight", "feed_forward.w1.weight", "mlp.gate_proj.weight", 0),
    _Part("up.weight", "feed_forward.w3.weight", "mlp.up_proj.weight", 0),
    _Part("down.weight", "feed_forward.w2.weight", "mlp.down_proj.weight", 1),
    _Part("norm1.weight", "attention_norm.weight", "input_layernorm.weight", None),
    _Part("norm2.weight", "ffn_norm.weight", "post_attention_layernorm.weight", None),
    _Part("q_norm.weight", "attention.q_normalization.weight", "self_attn.q_norm.weight", None, "q"),
    _Part("q_norm.bias", "attention.q_normalization.bias", "self_attn.q_norm.bias", None, "q"),
    _Part("k_norm.weight", "attention.k_normalization.weight", "self_attn.k_norm.weight", None, "k"),
    _Part("k_norm.bias", "attention.k_normalization.bias", "self_attn.k_norm.bias", None, "k"),
)


def parts(config: DecoderConfig, family: Family) -> list[tuple[str, str, _Part]]:
    """Return each weight of a model: our name, the layout's name, and its part. Meta's has an output, tied or not."""
    meta = family == "meta"
    outer = _OUTER if meta or not config.tied else _OUTER[:-1]
    found = [(p.ours, p.meta if meta else p.named, p) for p in outer]
    for i in range(config.layers):
        prefix = f"layers.{i}." if meta else f"model.layers.{i}."
        found += [(f"blocks.{i}.{p.ours}", prefix + (p.meta if meta else p.named), p) for p in _LAYER]
    return found


def our_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of ours, by name."""
    return {ours: _whole(config, part) for ours, _, part in parts(config, "transformers")}


def _whole(c: DecoderConfig, part: _Part) -> tuple[int, ...]:
    d, k, kv = c.d_model, c.head_dim, c.kv_heads or c.heads
    if part.ours in ("embed.weight", "output.weight"):
        return (c.vocab_size, d)
    if part.is_head_norm:
        return (c.heads if part.heads == "q" else kv, k)
    named = {"wq": (d, d), "wk": (kv * k, d), "wv": (kv * k, d), "wo": (d, d)}
    named |= {"gate": (c.ffn, d), "up": (c.ffn, d), "down": (d, c.ffn)}
    return named.get(part.ours.split(".")[0], (d,))


# Rows of heads


def halves(rows: Tensor, heads: int) -> Tensor:
    """Turn rows of heads from pairs into halves. (heads * k, ...) or (groups, k) -> same."""
    return _turned(rows, heads, halved=False)


def in_pairs(rows: Tensor, heads: int) -> Tensor:
    """Turn rows of heads from halves into pairs: the inverse of `halves`."""
    return _turned(rows, heads, halved=True)


def _turned(rows: Tensor, heads: int, halved: bool) -> Tensor:
    half = rows.numel() // heads // 2 if rows.dim() == 1 else rows.shape[0] // heads // 2
    last = () if rows.dim() == 1 else tuple(rows.shape[1:])
    pairs = (heads, 2, half) if halved else (heads, half, 2)
    return rows.reshape(*pairs, *last).transpose(1, 2).reshape(rows.shape)


# Out of ours


class Piece(NamedTuple):
    """One tensor to be written: its name, shape and type, and what makes it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


Read = Callable[[str], Tensor]
"""Our name of a weight -> the whole weight, in our layout."""


def written(layout: Layout, config: DecoderConfig, dtypes: Mapping[str, torch.dtype], read: Read) -> list[list[Piece]]:
    """Return the pieces of each file of a layout, in order, made of our weights.

    Raises `CheckpointError` as `check_cut`; making a norm raises it where heads of one group have norms of their own.
    """
    check_cut(layout, config)
    files: list[list[Piece]] = [[] for _ in range(layout.shards)]
    for ours, name, part in parts(config, layout.family):
        source = "embed.weight" if config.tied and ours == "output.weight" else ours
        shape = _stored(layout, part, _whole(config, part))
        for shard, pieces in enumerate(files):
            make = functools.partial(_made, layout, config, part, read, source, shard)
            pieces.append(Piece(name, shape, dtypes[source], make))
    return files


def _made(layout: Layout, config: DecoderConfig, part: _Part, read: Read, source: str, shard: int) -> Tensor:
    """Make one tensor of one file, of a whole weight of ours."""
    weight = _out(layout, config, part, read(source), source)
    if layout.family == "meta" and part.cut is not None:
        weight = weight.chunk(layout.shards, part.cut)[shard]
    if layout.family == "meta" and part.is_head_norm:
        weight = weight[shard]
    return weight.reshape(_stored(layout, part, _whole(config, part))).contiguous()


def _stored(layout: Layout, part: _Part, whole: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a weight in one file of a layout."""
    if part.is_head_norm and layout.family != "transformers":
        return (layout.groups, whole[1]) if layout.family == "lumina" else whole[1:]
    if part.cut is None or layout.family != "meta":
        return whole
    return tuple(n // layout.shards if i == part.cut else n for i, n in enumerate(whole))


def _out(layout: Layout, config: DecoderConfig, part: _Part, weight: Tensor, name: str) -> Tensor:
    """Turn a whole weight of ours into the order of a layout; norms become one for each group, (groups, k)."""
    if not part.heads:
        return weight
    if part.ours.startswith(("wq", "wk")):
        return in_pairs(weight, len(weight) // config.head_dim) if layout.pairs else weight
    if layout.family == "transformers":
        return weight
    grouped = weight.reshape(layout.groups, -1, weight.shape[-1])
    if not _shared(grouped):
        raise CheckpointError(
            f"{name}: heads of one of {layout.groups} groups have norms of their own, of which this layout keeps one a "
            "group; give more --shards, or write chameleon-hf, which keeps them all"
        )
    return torch.stack([in_pairs(row, 1) if layout.pairs else row for row in grouped[:, 0]])


def check_cut(layout: Layout, config: DecoderConfig) -> None:
    """Raise `CheckpointError`, with all that is wrong, where a model cannot be cut into that many files or groups."""
    kv = config.kv_heads or config.heads
    numbers = {"heads": config.heads, "key and value heads": kv}
    if layout.family == "meta":
        numbers |= {"ids": config.vocab_size, "feed-forward columns": config.ffn, "columns": config.d_model}
    if wrong := [f"{n} {name}" for name, n in numbers.items() if n % layout.groups]:
        raise CheckpointError(
            f"{', '.join(wrong)}: cannot be cut into {layout.groups} "
            f"{'shards' if layout.family == 'meta' else 'groups'}; give a number that divides them"
        )


def permuted(read: Read, rows: Tensor) -> Read:
    """Return `read` with the rows of ids, of embedding and output, in another order: row i is row `rows[i]` there."""
    return lambda name: read(name)[rows] if name in ("embed.weight", "output.weight") else read(name)


def norm_groups(config: DecoderConfig, read: Read) -> int:
    """Return the fewest groups of heads, side by side, that share query-key norms in every layer.

    Where heads that share keys have query norms of their own, it is the number of heads.
    """
    norms = [
        read(f"blocks.{i}.{name}.{kind}")
        for i in range(config.layers)
        for name in ("q_norm", "k_norm")
        for kind in ("weight", "bias")
    ]
    heads = config.kv_heads or config.heads
    for groups in (n for n in range(1, heads + 1) if heads % n == 0):
        if all(_shared(norm.reshape(groups, -1, norm.shape[-1])) for norm in norms):
            return groups
    return config.heads


def _shared(grouped: Tensor) -> bool:
    """Tell whether the heads of each group have one norm. (groups, heads, k)."""
    return bool((grouped == grouped[:, :1]).all())


# Into ours


class Ours(NamedTuple):
    """A model of a file's layout seen as ours: its config, the types of its weights, and `read` for each of them."""

    layout: Layout
    config: DecoderConfig
    dtypes: dict[str, torch.dtype]
    read: Read
    averaged: dict[str, float]
    """Norms of which Meta's files have copies that differ, by the layout's name: how far apart, of the largest."""


def seen_as_ours(
    shards: Sequence[Held],
    settings: Settings,
    fetch: Callable[[int, str], Tensor],
) -> Ours:
    """Recognise a layout and return the model in it as ours. `fetch` reads a tensor of one of the files.

    Raises `CheckpointError` with all that is wrong: tensors missing, too many, of other shapes or types than the rest
    and the settings say, copies that differ.
    """
    layout = recognise(shards)
    config, wrong = _shape(layout, shards, settings)
    check_cut(layout, config)
    named = parts(config, layout.family)
    dtypes: dict[str, torch.dtype] = {}
    lacks: dict[str, list[str]] = {"missing": [], "not Chameleon's": [], "of another shape": [], "of another type": []}
    for shard, held in enumerate(shards):
        of = f" of shard {shard}" if len(shards) > 1 else ""
        expected = {name: _stored(layout, part, _whole(config, part)) for _, name, part in named}
        lacks["missing"] += [f"{name}{of}" for name in expected if name not in held]
        if config.tied:
            expected["lm_head.weight"] = (config.vocab_size, config.d_model)
        lacks["not Chameleon's"] += [f"{n}{of}" for n in held if n not in expected and not _IGNORED.fullmatch(n)]
        lacks["of another shape"] += [
            f"{name}{of} {held[name][0]}, not {shape}"
            for name, shape in expected.items()
            if name in held and tuple(held[name][0]) != shape
        ]
        for ours, name, _ in named:
            if name in held:
                kind = dtypes.setdefault(ours, held[name][1])
                if kind != held[name][1] or kind not in FLOATS:
                    lacks["of another type"].append(f"{name}{of} {str(held[name][1]).removeprefix('torch.')}")
    wrong += [f"{some(names)}: {what}" for what, names in lacks.items() if names]
    averaged = {} if wrong else _averaged(layout, config, fetch)
    if odd := [name for name, apart in averaged.items() if not apart <= APART]:
        wrong.append(f"{some(odd)}: of another model in some shard")
    if not wrong and (again := _again(layout, fetch)):
        wrong.append(f"{some(again)}: the same numbers in layers.0.attention.wq.weight, so it is one shard twice")
    if not wrong and config.tied and "lm_head.weight" in shards[0]:
        if not torch.equal(fetch(0, "lm_head.weight"), fetch(0, "model.embed_tokens.weight")):
            wrong.append("lm_head.weight: is not the embedding, and config.json says tie_word_embeddings=true")
    if wrong:
        raise CheckpointError(f"{'; '.join(wrong)}; get the files whole, all of one model")
    by_name = {ours: (name, part) for ours, name, part in named}

    def read(ours: str) -> Tensor:
        name, part = by_name[ours]
        return _in(layout, config, part, [fetch(shard, name) for shard in range(layout.shards)])

    return Ours(layout, config, dtypes, read, averaged)


def _in(layout: Layout, config: DecoderConfig, part: _Part, pieces: list[Tensor]) -> Tensor:
    """Join the pieces of a weight and bring it into our order."""
    if part.is_head_norm:
        heads = config.heads if part.heads == "q" else config.kv_heads or config.heads
        groups = torch.cat([p.reshape(-1, config.head_dim) for p in pieces])
        groups = torch.stack([halves(row, 1) if layout.pairs else row for row in groups])
        return groups.repeat_interleave(heads // len(groups), 0)
    if part.cut is None:
        return pieces[0] if len(pieces) == 1 else _mean(pieces)
    whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces, part.cut)
    if part.heads and layout.pairs:
        whole = halves(whole, len(whole) // config.head_dim)
    return whole


def _mean(copies: list[Tensor]) -> Tensor:
    if all(torch.equal(c, copies[0]) for c in copies[1:]):
        return copies[0]
    return torch.stack([c.double() for c in copies]).mean(0).to(copies[0].dtype)


def _averaged(layout: Layout, config: DecoderConfig, fetch: Callable[[int, str], Tensor]) -> dict[str, float]:
    """Return the norms whose copies in Meta's files differ: by how much at most, as a part of their largest number."""
    found: dict[str, float] = {}
    for _, name, part in parts(config, layout.family) if layout.shards > 1 else []:
        if part.cut is None and not part.heads:
            copies = torch.stack([fetch(shard, name).double() for shard in range(layout.shards)])
            if not torch.equal(copies, copies[:1].expand_as(copies)):
                found[name] = float((copies - copies[0]).abs().max() / copies.abs().max())
    return found


def _again(layout: Layout, fetch: Callable[[int, str], Tensor]) -> list[str]:
    """Return the pairs of Meta's files that hold the same heads."""
    ranks = range(layout.shards if layout.family == "meta" else 1)
    first = [fetch(rank, "layers.0.attention.wq.weight") for rank in ranks] if len(ranks) > 1 else []
    return [f"shards {a} and {b}" for b in ranks for a in range(b) if torch.equal(first[a], first[b])]


def recognise(shards: Sequence[Held]) -> Layout:
    """Tell the layout of a model by the names and shapes of its tensors. Raises `CheckpointError` for none of ours."""
    first = shards[0] if shards else {}
    if fused := [name for name in first if _FUSED.fullmatch(name)]:
        raise CheckpointError(
            f"{some(fused)}: wqkv and w13 are joined by Meta's program in memory, and a file of them does not say "
            "where queries, keys and values part; convert the published file, which has wq, wk, wv, w1 and w3"
        )
    if "layers.0.attention.wq.weight" in first:
        if "layers.0.attention.q_normalization.weight" not in first:
            raise CheckpointError("layers.0.attention.q_normalization.weight: is missing; a Chameleon has these norms")
        return Layout("meta", len(shards), len(shards))
    norm = first.get("model.layers.0.self_attn.q_norm.weight")
    query = first.get("model.layers.0.self_attn.q_proj.weight")
    if norm is None or query is None or len(shards) != 1:
        raise CheckpointError(
            f"{some(list(first)) or 'no tensors'}: no language model of Chameleon's family; its files have "
            "layers.0.attention.wq.weight or model.layers.0.self_attn.q_proj.weight, with norms of both"
        )
    if len(query[0]) != 2 or not 1 <= len(norm[0]) <= 2 or not all(norm[0]):
        raise CheckpointError(
            f"model.layers.0.self_attn.q_proj.weight {tuple(query[0])} and q_norm.weight {tuple(norm[0])}: are no "
            "matrix and no norms of heads; get the files whole"
        )
    if len(norm[0]) == 1:
        return Layout("anole")
    if len(norm[0]) == 2 and norm[0][0] * norm[0][1] != query[0][0]:
        return Layout("lumina", 1, norm[0][0])
    return Layout("transformers")


def _shape(layout: Layout, shards: Sequence[Held], settings: Settings) -> tuple[DecoderConfig, list[str]]:
    """Read the numbers of a model from shapes; also what the settings say otherwise."""
    held, meta = shards[0], layout.family == "meta"
    if meta and settings.claims.get("model_parallel_size", len(shards)) != len(shards):
        raise CheckpointError(
            f"{len(shards)} files of weights, and the settings say model_parallel_size="
            f"{settings.claims['model_parallel_size']}: a shard is missing, or one too many; get them all"
        )
    layers = 1 + max(int(found[1]) for name in held if (found := _INDEX.match(name)))
    prefix = "layers.0." if meta else "model.layers.0."
    names = {p.ours: prefix + (p.meta if meta else p.named) for p in _LAYER}
    names |= {p.ours: p.meta if meta else p.named for p in _OUTER}
    wanted = {"embed.weight": 2, "wq.weight": 2, "wk.weight": 2, "gate.weight": 2}
    if bad := [names[o] for o, n in wanted.items() if len(held.get(names[o], ((), 0))[0]) != n]:
        raise CheckpointError(f"{some(bad)}: missing or no matrix; get the files whole")
    width = held[names["q_norm.weight"]][0][-1] if held[names["q_norm.weight"]][0] else 0
    (vocab, d), (query, _), (key, _), (hidden, _) = (held[names[ours]][0] for ours in wanted)
    d, query, key, hidden = d * layout.shards, query * layout.shards, key * layout.shards, hidden * layout.shards
    if not width or query != d or key % width or d % width or not layers <= 1024:
        raise CheckpointError(
            f"{names['wq.weight']} and {names['wk.weight']}: {query} and {key} rows over all {layout.shards} files, "
            f"which are no heads of {width} numbers of a model of width {d}; a file is missing, or of another model"
        )
    try:
        config = DecoderConfig(
            vocab_size=vocab, d_model=d, layers=layers, heads=d // width, kv_heads=key // width, hidden=hidden,
            context=settings.context, activation="swiglu", norm="rms", norm_affine=True,
            norm_order="swin" if settings.swin else "pre", norm_eps=settings.norm_eps, qk_norm=True, positions="rope",
            rope_theta=settings.rope_theta, tied=settings.tied,
        )  # fmt: skip
    except ConfigError as error:
        raise CheckpointError(f"{error}; get the files whole") from error
    there: dict[str, int] = {
        name: getattr(config, name) for name in ("vocab_size", "d_model", "layers", "heads", "kv_heads", "hidden")
    }
    there["model_parallel_size"] = layout.groups
    wrong = [
        f"{name} is {value} by the tensors and {settings.claims[name]} by the settings"
        for name, value in there.items()
        if name in settings.claims and settings.claims[name] != value
        # transformers' norms are a head's own: the number of groups is that of some earlier layout.
        if name != "model_parallel_size" or layout.family in ("meta", "lumina")
    ]
    return config, wrong
