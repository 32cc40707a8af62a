"""What a run will need, before anything is spent on it: memory, time, energy, disk. Arithmetic alone.

    TrainConfig -> parameters -> FLOP a token -> tokens a second -> days, GPU hours, energy, price
                      |-> memory of a GPU by part (cm3/train/plan_memory.py), and whether it fits
                      `-> bytes of checkpoints; with the documents: of the token store, pictures and memory bank

What is assumed is an argument or a constant with its source; docs/plan.md has the whole of it on a page.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

from cm3.errors import ConfigError
from cm3.model.sizes import flops_per_token, parameters
from cm3.parallel import MeshConfig, ShardConfig
from cm3.train.gpus import Gpu, gpu_of
from cm3.train.plan_memory import Layout, Memory, memory_of, optimizer_bytes, parts_of, recomputed_flops
from cm3.train.trainer import TrainConfig

MFU = 0.4
"""Share of the peak that a run is taken to reach where nobody measured it: Chameleon's printed GPU hours come to 0.41
(docs/plan.md); torchtitan reports 0.33 to 0.39 for Llama 3.1 8B on 8 and 128 H100s."""
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


SHARDS = tuple(ShardConfig("bfloat16", activation_checkpointing=kind) for kind in ("none", "selective", "full"))
"""What is tried, in this order, where it is not given how activations are checkpointed."""


@dataclass(frozen=True)
class Time:
    """`flops` a token at the documents' length, `flops_full` at the whole context. `mfu` is what the run reaches;
    `bound` is 'compute', 'network' where moving weights takes longer, or 'measured'. Seconds are of one update."""

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
    """What `plan` found out. `parameters` by part; `accumulate` passes of `micro` windows make an update of `batch`
    tokens; `documents` are in the store, and pass by `epochs` times."""

    gpu: Gpu
    layout: Layout
    shard: ShardConfig
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
        """As JSON values, with the sums of parameters and memory."""
        sums = {"parameters_total": sum(self.parameters.values()), "memory_total": self.memory.total}
        return dataclasses.asdict(self) | sums


def plan(
    config: TrainConfig,
    gpus: int,
    gpu: str = "h100",
    *,
    mesh: MeshConfig | None = None,
    shard: ShardConfig | None = None,
    micro: int | None = None,
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

    Without `mesh` all of them shard the weights; without `shard` it is bfloat16 and the first of no, selective and full
    activation checkpointing that fits. `micro` windows pass through a GPU at once; None is as the run says, all of its
    share where that is 0. `mfu` is assumed; `measured`, tokens a second and GPU of this very run, takes its place.
    `document` is the mean length of a document in tokens, weighted by tokens, as attention is blocked at documents;
    None takes the longest there can be. `documents` are in the store (None: one epoch), each of `stored` tokens (None:
    `document`; fewer where others are retrieved for it). `load` is the share of its power limit that a GPU draws,
    `price` that of a GPU hour, `picture` the bytes of a picture file.

    Raises `ConfigError` for an unknown GPU, what the mesh or the windows do not divide, a value out of range, and for a
    run that does not fit into the GPU's memory; that one says what would.
    """
    card, c = gpu_of(gpu), config.model
    layout = Layout.of(gpus, mesh or MeshConfig(), c)
    if micro is None:
        micro = config.micro or max(1, config.windows // layout.ranks)
    longest = min(c.context, config.length)
    length = longest if document is None else document
    over = {"pue": pue, "load": load, "picture": picture, "measured": measured}
    over |= {"documents": documents, "stored": stored, "price": price}
    _check(config, layout, micro, length, mfu, over)
    chosen, memory = _fit(config, card, layout, shard, micro)
    tokens = config.steps * config.windows * config.length
    passing = tokens / length  # windows are taken as full
    held = passing if documents is None else documents
    total = parameters(c)
    return Plan(
        gpu=card,
        layout=layout,
        shard=chosen,
        parameters=parts_of(c),
        micro=micro,
        accumulate=config.windows // (layout.ranks * micro),
        updates=config.steps,
        batch=config.windows * config.length,
        tokens=tokens,
        documents=held,
        epochs=passing / held,
        memory=memory,
        time=_time(config, card, layout, chosen, micro, length, mfu, measured, price, pue * load),
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
    shard: ShardConfig,
    micro: int,
    length: int,
    mfu: float,
    measured: float | None,
    price: float | None,
    power: float,
) -> Time:
    c, batch = config.model, config.windows * config.length
    flops, peak = flops_per_token(c, length), layout.gpus * card.tflops * 1e12
    compute, network = batch * flops / (peak * mfu), _network(config, card, layout, shard, micro)
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


def _network(config: TrainConfig, card: Gpu, layout: Layout, shard: ShardConfig, micro: int) -> float:
    """Seconds an update in which a GPU receives, if all of it came one after the other at the full width of the line.

    For each pass of `micro` windows sharded weights are gathered before the forward and (unless they are kept) the
    backward pass, and their gradients summed in float32, over the copies of the model too; tensor parallel sums four
    activations a block.
    """
    c, passes = config.model, config.windows // (layout.ranks * micro)
    s, r, t = layout.dp_shard, layout.dp_replicate, layout.tp
    local, width = parameters(c) / t, 2 if shard.precision == "bfloat16" else 4

    def line(span: int) -> float:
        return 1e9 * (card.link if span <= MACHINE else min(NETWORK, card.link))

    gathered = (2 if shard.reshard_after_forward else 1) * width + 4
    sharding = passes * gathered * local * (s - 1) / s / line(s * t)
    copies = passes * 2 * 4 * local / s * (r - 1) / r / line(layout.gpus)
    sums = passes * 4 * c.layers * 2 * (t - 1) / t * micro * config.length * c.d_model * width
    return sharding + copies + sums / line(t)


def _fit(
    config: TrainConfig, card: Gpu, layout: Layout, shard: ShardConfig | None, micro: int
) -> tuple[ShardConfig, Memory]:
    """How it is sharded, and the memory then. Raises `ConfigError`, with what would fit, where nothing allowed does."""
    for one in SHARDS if shard is None else (shard,):
        memory = memory_of(config, layout, one, micro)
        if memory.total <= card.memory * 1e9:
            return one, memory
    told = "" if shard is None else f" with recompute={shard.activation_checkpointing}"
    raise ConfigError(
        f"does not fit: {memory.total / 1e9:.0f} GB{told} on each {card.name}, most of it {memory.largest}; "
        + _remedy(config, card, layout, micro)
    )


def _remedy(config: TrainConfig, card: Gpu, layout: Layout, micro: int) -> str:
    """What is nearest to the given settings and fits: recomputing, less at once, more sharding, tensor parallel."""
    c, gpus, least = config.model, layout.gpus, float("inf")
    widths = [t for t in (layout.tp, 2, 4, 8) if t >= layout.tp and not gpus % t]
    for t in dict.fromkeys(widths):
        if any(n % t for n in (c.heads, c.kv_heads or c.heads, c.ffn, c.vocab_size)):
            continue
        for s in dict.fromkeys([layout.dp_shard, gpus // t]):
            if gpus % (t * s) or config.windows % (gpus // t):
                continue
            other = Layout(gpus, t, s, gpus // (t * s))
            for few, one in itertools.product(dict.fromkeys([micro, 1]), SHARDS):
                total = memory_of(config, other, one, few).total
                least = min(least, total)
                if total <= card.memory * 1e9:
                    how = one.activation_checkpointing
                    return f"recompute={how}, dp_shard={s}, tp={t} and micro={few} would take {total / 1e9:.0f} GB"
    return (
        f"no way to spread it over {gpus} fits, the least is {least / 1e9:.0f} GB; give more of them, one with more "
        "memory, or a shorter length"
    )


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
    if micro < 1 or config.windows % (layout.ranks * micro):
        raise ConfigError(
            f"windows={config.windows}: must be a multiple of {layout.ranks} data-parallel ranks times micro={micro}; "
            "give more, shorter windows, fewer GPUs, or more tensor parallel"
        )
