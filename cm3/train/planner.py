"""The needs of a run, before anything is spent on it: memory, time, energy, disk. Arithmetic alone.

    TrainConfig -> parameters -> FLOP a token -> tokens a second -> days, GPU hours, energy, price
                      |-> memory of a GPU by part, and whether it fits
                      `-> bytes of checkpoints; with the documents: of the token store, pictures and memory bank

Memory is that of a run which `cm3.parallel` spreads: weights, gradients and the optimizer's state in float32, split
over `dp_shard` and, the blocks' matrices and the vocabulary's tables, over `tp`; each block's weights gathered when
their turn comes; logits made and thrown away a chunk at a time (cm3/model/loss.py); attention that keeps no square of
the length.

    a block keeps, for each token       x, norm(x), x', norm(x')          4 d         whole on each tensor-parallel rank
    (pre-norm; numbers, not bytes)      q, k, v, attention's sum          4 d         split
                                        feed-forward, between its two     2 f gelu, 1 f relu, 3 f swiglu      split

Each assumption is an argument or a constant with its source; docs/plan.md has the whole of it on a page.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from cm3.errors import ConfigError
from cm3.model.decoder import DecoderConfig
from cm3.model.sizes import flops_per_token, parameters
from cm3.parallel import MeshConfig, ShardConfig
from cm3.train.gpus import Gpu, gpu_of
from cm3.train.trainer import TrainConfig

MFU = 0.4
"""Share of the peak that a run is taken to reach where nobody measured it: Chameleon's printed GPU hours come to 0.41
(docs/plan.md); torchtitan reports 0.33 to 0.39 for Llama 3.1 8B on 8 and 128 H100s."""
FLOAT32 = 1 / 16
"""Peak of float32 over that of bfloat16, on an A100 (19.5 of 312), and nearly so on an H100 (67 of 989)."""
NETWORK = 50.0
"""10^9 bytes a second and GPU between machines: a port of 400 Gb/s for each."""
MACHINE = 8
"""GPUs of one machine."""
PUE = 1.1
"""Energy of the data centre over that of its machines (LLaMA, Touvron et al. 2023, section 6)."""
PICTURE = 162_000
"""Bytes of a picture file: 159 photographs of COCO, mean (docs/retrieval-scale.md; 26,000 at web size)."""
VECTOR, CODE = 2048, 264
"""Bytes of a document in a memory bank: 512 float32, and 256 dimensions of 8 bits with a row number
(docs/retrieval-scale.md)."""
HALF, FULL = 2, 4
CHUNK, KEEP_LOGITS, LOGIT = 1024, 2**26, 6
"""Of `next_token_loss`: tokens a chunk, the most logits that are kept, and bytes for each logit of the chunk at hand:
in bfloat16 and float32, whose memory its probability and its gradient take."""
RUNTIME = 2e9
"""Bytes that the driver, the matrix and the communication libraries take. Assumed."""
MARGIN = 0.1
"""Share on top for what the allocator cannot use. Assumed."""


@dataclass(frozen=True)
class Layout:
    """`gpus` = tp * dp_shard * dp_replicate."""

    gpus: int
    tp: int
    dp_shard: int
    dp_replicate: int

    @classmethod
    def of(cls, gpus: int, mesh: MeshConfig, model: DecoderConfig) -> Layout:
        """Return the mesh over so many GPUs. Raises `ConfigError` for what does not divide them or the model."""
        if gpus < 1:
            raise ConfigError(f"gpus={gpus}: must be at least 1")
        replicate, shard, tp = mesh.sizes(gpus)
        for name, value in (
            ("heads", model.heads),
            ("kv_heads", model.kv_heads or model.heads),
            ("hidden", model.ffn),
            ("vocab_size", model.vocab_size),
        ):
            if value % tp:
                raise ConfigError(f"mesh.tp={tp}: does not divide model.{name}={value}; give one that does")
        if model.near and tp > 1:
            raise ConfigError(f"mesh.tp={tp}: a model of near={model.near} is not split; use tp=1, or near=0")
        return cls(gpus, tp, shard, replicate)

    @property
    def ranks(self) -> int:
        """Return ranks that read data of their own."""
        return self.dp_shard * self.dp_replicate


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU at the worst moment. `gathered`: whole weights and gradients of what is being worked on."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    logits: float
    runtime: float
    margin: float

    @property
    def total(self) -> float:
        """Return all together."""
        return sum(dataclasses.asdict(self).values())

    @property
    def largest(self) -> str:
        """Return the name of the largest part."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


@dataclass(frozen=True)
class Time:
    """`flops` a token at the documents' length, `flops_full` at the whole context. `mfu` is what the run reaches of the
    peak of bfloat16; `bound` is 'compute', 'network' where moving weights takes longer, or 'measured'. Seconds are of
    one update."""

    flops: float
    flops_full: float
    compute_s: float
    network_s: float
    step_s: float
    tokens_per_s: float
    mfu: float
    hfu: float
    bound: str
    days: float
    gpu_hours: float
    mwh: float
    price: float | None


@dataclass(frozen=True)
class Disk:
    """Bytes. `checkpoint` is one of training, `bundle` the decoder's weights in half precision."""

    checkpoint: int
    bundle: int
    store: int
    pictures: int
    vectors: int
    index: int


@dataclass(frozen=True)
class Plan:
    """The findings of `plan`. `parameters` by part; `accumulate` passes of `micro` windows make an update of `batch`
    tokens; `documents` are in the store, and pass by `epochs` times."""

    gpu: Gpu
    layout: Layout
    shard: ShardConfig
    dtype: str
    parameters: dict[str, int]
    micro: int
    accumulate: int
    updates: int
    batch: int
    tokens: int
    documents: float
    epochs: float
    memory: Memory
    time: Time
    disk: Disk

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values, with the sums of parameters and memory."""
        sums = {"parameters_total": sum(self.parameters.values()), "memory_total": self.memory.total}
        return dataclasses.asdict(self) | sums


def plan(
    config: TrainConfig,
    gpus: int,
    gpu: str = "h100",
    *,
    mfu: float = MFU,
    measured: float | None = None,
    document: int | None = None,
    documents: float | None = None,
    stored: float | None = None,
    price: float | None = None,
    pue: float = PUE,
    load: float = 1.0,
    picture: int = PICTURE,
) -> Plan:
    """Plan a run of `config` on so many GPUs of a kind of `GPUS` (cm3/train/gpus.py).

    The model is that which the run will build (`TrainConfig.settled`): its vocabulary and grid are those of what it
    begins with, its stores or its tokenizers where these are there already, and else what the recipe says.

    `mfu` of the peak of the run's number type is assumed; `measured`, tokens a second and GPU of this very run, takes
    its place. `document` is the mean length of a document in tokens, weighted by tokens, as attention is blocked
    at documents; None takes the longest there can be. `documents` are in the store (None: one epoch), each of `stored`
    tokens (None: `document`; fewer where others are retrieved for it). `load` is the share of its power limit that a
    GPU draws, `price` that of a GPU hour, `picture` the bytes of a picture file.

    Raises `ConfigError` for an unknown GPU, what the mesh or the windows do not divide, a value out of range, and for a
    run that does not fit into the GPU's memory; that one says what would.
    """
    config = config.settled()
    card, c = gpu_of(gpu), config.model
    layout = Layout.of(gpus, config.mesh, c)
    micro = config.micro or max(1, config.windows // layout.ranks)
    longest = min(c.context, config.length)
    length = longest if document is None else document
    over = {"pue": pue, "load": load, "picture": picture, "measured": measured}
    over |= {"documents": documents, "stored": stored, "price": price}
    _check(config, layout, micro, length, mfu, over)
    memory = memory_of(config, layout, config.shard, micro)
    if memory.total > card.memory * 1e9:
        raise ConfigError(_misfit(config, card, layout, micro, memory))
    tokens = config.steps * config.windows * config.length
    passing = tokens / length  # windows are taken as full
    held = passing if documents is None else documents
    total = parameters(c)
    return Plan(
        gpu=card,
        layout=layout,
        shard=config.shard,
        dtype=dtype_of(config),
        parameters=parts_of(c),
        micro=micro,
        accumulate=config.windows // (layout.ranks * micro),
        updates=config.steps,
        batch=config.windows * config.length,
        tokens=tokens,
        documents=held,
        epochs=passing / held,
        memory=memory,
        time=_time(config, card, layout, micro, length, mfu, measured, price, pue * load),
        disk=Disk(
            checkpoint=4 * total + optimizer_bytes(c, config.optim.name),
            bundle=2 * total,
            store=round(held * (stored or length) * (2 if c.vocab_size <= 65_536 else 4)),
            pictures=round(held * picture),
            vectors=round(held * VECTOR),
            index=round(held * CODE),
        ),
    )


def _time(
    config: TrainConfig,
    card: Gpu,
    layout: Layout,
    micro: int,
    length: int,
    mfu: float,
    measured: float | None,
    price: float | None,
    power: float,
) -> Time:
    c, shard, batch = config.model, config.shard, config.windows * config.length
    flops, peak = flops_per_token(c, length), layout.gpus * card.tflops * 1e12
    share = mfu if width_of(config) == HALF else mfu * FLOAT32
    compute, network = batch * flops / (peak * share), _network(config, card, layout, micro)
    step, bound = max(compute, network), "compute" if compute >= network else "network"
    if measured is not None:
        step, bound = batch / (measured * layout.gpus), "measured"
    reached = batch * flops / (step * peak)
    hours = config.steps * step * layout.gpus / 3600
    return Time(
        flops=flops,
        flops_full=flops_per_token(c, min(c.context, config.length)),
        compute_s=compute,
        network_s=network,
        step_s=step,
        tokens_per_s=batch / step,
        mfu=reached,
        hfu=reached * (1 + recomputed_flops(c, shard, length, layout.tp) / flops),
        bound=bound,
        days=config.steps * step / 86_400,
        gpu_hours=hours,
        mwh=hours * card.watts * power / 1e6,
        price=None if price is None else hours * price,
    )


def _network(config: TrainConfig, card: Gpu, layout: Layout, micro: int) -> float:
    """Return the seconds of an update in which a GPU receives, if all of it came one after the other.

    The line is used at its full width.

    For each pass of `micro` windows sharded weights are gathered before the forward and (unless they are kept) the
    backward pass, and their gradients summed in float32; tensor parallel sums four activations a block. The copies of
    the model sum theirs once, after the last pass (`before_pass` of cm3/parallel/sharding.py).
    """
    c, shard, passes = config.model, config.shard, config.windows // (layout.ranks * micro)
    s, r, t = layout.dp_shard, layout.dp_replicate, layout.tp
    local, width = parameters(c) / t, width_of(config)

    def line(span: int) -> float:
        return 1e9 * (card.link if span <= MACHINE else min(NETWORK, card.link))

    gathered = (2 if shard.reshard_after_forward else 1) * width + 4
    sharding = passes * gathered * local * (s - 1) / s / line(s * t)
    copies = 2 * 4 * local / s * (r - 1) / r / line(layout.gpus)
    sums = passes * 4 * c.layers * 2 * (t - 1) / t * micro * config.length * c.d_model * width
    return sharding + copies + sums / line(t)


def _misfit(config: TrainConfig, card: Gpu, layout: Layout, micro: int, memory: Memory) -> str:
    """Say that it does not fit, and what would: the settings to change, of those that are nearest to the given ones."""
    given, least = _settings(dtype_of(config), layout, micro, config.shard), memory.total
    how = " and ".join(f"{name}={given[name]}" for name in ("dtype", "shard.activation_checkpointing"))
    told = f"does not fit: {least / 1e9:.0f} GB with {how} on each {card.name}, most of it {memory.largest}; "
    half = dataclasses.replace(config, dtype="bfloat16")
    for other, few, one in _others(config, layout, micro):
        total = memory_of(half, other, one, few).total
        least = min(least, total)
        if total <= card.memory * 1e9:
            would = _settings("bfloat16", other, few, one)
            new = {name: value for name, value in would.items() if value != given[name]}
            return f"{told}{', '.join(f'{n}={v}' for n, v in new.items())} would take {total / 1e9:.0f} GB"
    return (
        f"{told}no way to spread it over {layout.gpus} fits, the least is {least / 1e9:.0f} GB; give more of them, "
        "one with more memory, or a shorter length"
    )


def _others(config: TrainConfig, layout: Layout, micro: int) -> Iterator[tuple[Layout, int, ShardConfig]]:
    """Return other settings, all for bfloat16, the nearest first: recomputing, less at once, more sharding, more tensor
    parallel."""
    c, gpus = config.model, layout.gpus
    kinds: tuple[Literal["none", "selective", "full"], ...] = ("none", "selective", "full")
    more = kinds[kinds.index(config.shard.activation_checkpointing) :]
    same = [dataclasses.replace(config.shard, activation_checkpointing=kind) for kind in more]
    small = [dataclasses.replace(one, checkpoint_every=1, reshard_after_forward=True) for one in same]
    for t in dict.fromkeys([layout.tp, 2, 4, 8]):
        if t < layout.tp or any(n % t for n in (gpus, c.heads, c.kv_heads or c.heads, c.ffn, c.vocab_size)):
            continue
        if t > 1 and c.near:
            continue
        for s in dict.fromkeys([layout.dp_shard, gpus // t]):
            for few, one in itertools.product(dict.fromkeys([micro, 1]), dict.fromkeys([*same, *small])):
                if not gpus % (t * s) and not config.windows % (gpus // t * few):
                    yield Layout(gpus, t, s, gpus // (t * s)), few, one


def _settings(dtype: str, layout: Layout, micro: int, shard: ShardConfig) -> dict[str, Any]:
    """Name settings as `cm3 train` does."""
    spread = {f"mesh.{name}": getattr(layout, name) for name in ("tp", "dp_shard", "dp_replicate")}
    how = {f"shard.{name}": value for name, value in vars(shard).items()}
    return {"dtype": dtype} | how | spread | {"micro": micro}


def _check(
    config: TrainConfig, layout: Layout, micro: int, length: int, mfu: float, over: dict[str, float | None]
) -> None:
    if not 0 < mfu <= 1:
        raise ConfigError(f"mfu={mfu}: must be a share of the peak, over 0 and at most 1")
    for name, value in over.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{name}={value}: must be over 0")
    longest = min(config.model.context, config.length)
    if not 1 <= length <= longest:
        raise ConfigError(f"document={length}: must be 1 to {longest}, the longest that model.context and length allow")
    if config.windows % (layout.ranks * micro):
        few = [n for n in range(layout.tp, layout.gpus, layout.tp) if config.windows % (n // layout.tp * micro) == 0]
        raise ConfigError(
            f"windows={config.windows}: must be a multiple of {layout.ranks} data-parallel ranks times micro={micro}; "
            f"give {f'--gpus {few[-1]}, ' if few else ''}more, shorter windows, or more tensor parallel"
        )


# Memory


def parts_of(c: DecoderConfig) -> dict[str, int]:
    """Count the parameters by part; their sum is `cm3.model.sizes.parameters`."""
    d, kv = c.d_model, _kv(c)
    norm = d * (2 if c.norm == "layer" else 1) if c.norm_affine else 0
    return {
        "embedding": c.vocab_size * d,
        "positions": c.context * d if c.positions == "learned" else 0,
        "grid": (sum(c.grid) + 2) * d if c.grid else 0,
        "near": d if c.near else 0,
        "attention": c.layers * (2 * d * d + 2 * d * kv),
        "feed_forward": c.layers * (3 if c.activation == "swiglu" else 2) * d * c.ffn,
        "norms": (2 * c.layers + 1) * norm + (c.layers * 2 * (d + kv) if c.qk_norm else 0),
        "output": 0 if c.tied else c.vocab_size * d,
    }


def optimizer_bytes(c: DecoderConfig, name: str) -> int:
    """Return bytes of the whole state: two moments in float32; one for each matrix of the blocks with Muon."""
    parts = parts_of(c)
    matrices = parts["attention"] + parts["feed_forward"]
    return FULL * (2 * sum(parts.values()) - (matrices if name == "muon" else 0))


def activations_per_token(c: DecoderConfig, tp: int = 1) -> float:
    """Return the numbers that one block keeps for the backward pass, for each token."""
    between = {"gelu": 2, "relu": 1, "swiglu": 3}[c.activation] * c.ffn
    # Before and after the norms of the heads, and attention's sum in another order.
    norms = 2 * (c.d_model + _kv(c)) + c.d_model if c.qk_norm else 0
    return 4 * c.d_model + (4 * c.d_model + norms + between) / tp


def products_of(c: DecoderConfig, tp: int = 1) -> list[tuple[float, float]]:
    """Return (in, out) of each matrix of a block, as one tensor-parallel rank has it."""
    d, kv, f = c.d_model, _kv(c), c.ffn
    wide = 2 if c.activation == "swiglu" else 1
    return [(d, d / tp), (d, kv / tp), (d, kv / tp), (d / tp, d), *[(d, f / tp)] * wide, (f / tp, d)]


def recomputed_flops(c: DecoderConfig, shard: ShardConfig, length: int, tp: int = 1) -> float:
    """Return FLOP a token that activation checkpointing adds: what it does not keep of the blocks is computed twice."""
    products = [2 * a * b * tp for a, b in products_of(c, tp)]
    if shard.activation_checkpointing == "selective":
        one = sum(f for f, (a, b) in zip(products, products_of(c, tp), strict=True) if b > a)
    else:
        one = sum(products) + 2 * c.d_model * length
    return _checkpointed(c, shard) * one


def activation_bytes(c: DecoderConfig, tokens: int, shard: ShardConfig, width: int, tp: int = 1) -> float:
    """Return bytes of activations, numbers of `width` bytes, at the worst moment of a pass: the blocks', and three of d
    around them.

    A block that is checkpointed keeps its input and, with 'selective', the sums of attention and the products no wider
    than what they read (cm3/parallel/sharding.py); one such block at a time is there in full. The backward pass adds
    the gradient of a feed-forward's inside and of its two ends.
    """
    one, few = activations_per_token(c, tp), _checkpointed(c, shard)
    left = float(c.d_model)
    if shard.activation_checkpointing == "selective":
        left += c.d_model / tp + sum(b for a, b in products_of(c, tp) if b <= a)
    kept = (c.layers - few) * one + few * left + (one - c.d_model if few else 0)
    return width * tokens * (kept + 3 * c.d_model + c.ffn / tp + 2 * c.d_model)


def memory_of(config: TrainConfig, layout: Layout, shard: ShardConfig, micro: int) -> Memory:
    """Plan the memory of a GPU with `micro` windows at once."""
    c, parts, muon = config.model, parts_of(config.model), config.optim.name == "muon"
    split = (parts["attention"] + parts["feed_forward"]) / layout.tp  # the blocks' matrices
    rest = (parts["embedding"] + parts["output"]) / layout.tp
    rest += parts["positions"] + parts["grid"] + parts["near"] + parts["norms"]
    local = FULL * (split + rest) / layout.dp_shard
    block, width, gathered = split / c.layers, width_of(config), 0.0
    if layout.gpus == 1:
        gathered = HALF * (split + rest) if width == HALF else 0.0  # the copy that passes
    elif layout.ranks > 1 or width == HALF:
        # The root stays gathered throughout; of the blocks one works while the next is fetched. Gradients of the one
        # and of the root, and the same in float32 to be summed.
        blocks = 2 * block if shard.reshard_after_forward else split
        gathered = width * (rest + blocks) + (width + FULL) * (rest + block)
        if muon:  # one whole momentum, and Newton-Schulz's matrices
            gathered = max(gathered, (FULL + 3 * HALF) * c.d_model * c.ffn)
    tokens = micro * config.length
    logits = tokens * c.vocab_size
    found = Memory(
        weights=local,
        gradients=local,
        optimizer=FULL * ((1 if muon else 2) * split + 2 * rest) / layout.dp_shard,
        gathered=gathered,
        activations=activation_bytes(c, tokens, shard, width, layout.tp),
        logits=(FULL * logits if logits <= KEEP_LOGITS else 0) + LOGIT * min(CHUNK, tokens) * c.vocab_size,
        runtime=RUNTIME,
        margin=0.0,
    )
    return dataclasses.replace(found, margin=MARGIN * found.total)


def _kv(c: DecoderConfig) -> int:
    return (c.kv_heads or c.heads) * c.head_dim


def dtype_of(config: TrainConfig) -> str:
    """Return the number type of the passes on a GPU of the table, each of which computes in bfloat16."""
    return "bfloat16" if config.dtype == "auto" else config.dtype


def width_of(config: TrainConfig) -> int:
    """Return the bytes of a number of the passes."""
    return FULL if dtype_of(config) == "float32" else HALF


def _checkpointed(c: DecoderConfig, shard: ShardConfig) -> int:
    """Count the blocks that are checkpointed."""
    return 0 if shard.activation_checkpointing == "none" else -(-c.layers // shard.checkpoint_every)
