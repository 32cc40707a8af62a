"""What a run will need, before anything is spent on it: memory, time, energy, disk. Arithmetic alone.

    TrainConfig -> parameters -> FLOP a token -> tokens a second -> days, GPU hours, energy, price
                      |-> memory of a GPU by part (cm3/train/plan_memory.py), and whether it fits
                      `-> bytes of checkpoints; with the documents: of the token store, pictures and memory bank

What is assumed is an argument or a constant with its source; docs/plan.md has the whole of it on a page.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from cm3.errors import ConfigError
from cm3.model.sizes import flops_per_token, parameters
from cm3.parallel import ShardConfig
from cm3.train.gpus import Gpu, gpu_of
from cm3.train.plan_memory import Layout, Memory, memory_of, optimizer_bytes, parts_of, recomputed_flops
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

    `mfu` of the peak of `config.shard.precision` is assumed; `measured`, tokens a second and GPU of this very run,
    takes its place. `document` is the mean length of a document in tokens, weighted by tokens, as attention is blocked
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
    share = mfu if shard.precision == "bfloat16" else mfu * FLOAT32
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
    """Seconds an update in which a GPU receives, if all of it came one after the other at the full width of the line.

    For each pass of `micro` windows sharded weights are gathered before the forward and (unless they are kept) the
    backward pass, and their gradients summed in float32; tensor parallel sums four activations a block. The copies of
    the model sum theirs once, after the last pass (`before_pass` of cm3/parallel/shard.py).
    """
    c, shard, passes = config.model, config.shard, config.windows // (layout.ranks * micro)
    s, r, t = layout.dp_shard, layout.dp_replicate, layout.tp
    local, width = parameters(c) / t, 2 if shard.precision == "bfloat16" else 4

    def line(span: int) -> float:
        return 1e9 * (card.link if span <= MACHINE else min(NETWORK, card.link))

    gathered = (2 if shard.reshard_after_forward else 1) * width + 4
    sharding = passes * gathered * local * (s - 1) / s / line(s * t)
    copies = 2 * 4 * local / s * (r - 1) / r / line(layout.gpus)
    sums = passes * 4 * c.layers * 2 * (t - 1) / t * micro * config.length * c.d_model * width
    return sharding + copies + sums / line(t)


def _misfit(config: TrainConfig, card: Gpu, layout: Layout, micro: int, memory: Memory) -> str:
    """That it does not fit, and what would: the settings to change, of those that are nearest to the given ones."""
    given, least = _settings(layout, micro, config.shard), memory.total
    how = " and ".join(f"{name}={given[name]}" for name in ("shard.precision", "shard.activation_checkpointing"))
    told = f"does not fit: {least / 1e9:.0f} GB with {how} on each {card.name}, most of it {memory.largest}; "
    for other, few, one in _others(config, layout, micro):
        total = memory_of(config, other, one, few).total
        least = min(least, total)
        if total <= card.memory * 1e9:
            new = {name: value for name, value in _settings(other, few, one).items() if value != given[name]}
            return f"{told}{', '.join(f'{n}={v}' for n, v in new.items())} would take {total / 1e9:.0f} GB"
    return (
        f"{told}no way to spread it over {layout.gpus} fits, the least is {least / 1e9:.0f} GB; give more of them, "
        "one with more memory, or a shorter length"
    )


def _others(config: TrainConfig, layout: Layout, micro: int) -> Iterator[tuple[Layout, int, ShardConfig]]:
    """What else there is, the nearest first: recomputing, less at once, more sharding, more tensor parallel."""
    c, gpus = config.model, layout.gpus
    kinds: tuple[Literal["none", "selective", "full"], ...] = ("none", "selective", "full")
    half = dataclasses.replace(config.shard, precision="bfloat16")
    more = kinds[kinds.index(half.activation_checkpointing) :]
    same = [dataclasses.replace(half, activation_checkpointing=kind) for kind in more]
    small = [dataclasses.replace(one, checkpoint_every=1, reshard_after_forward=True) for one in same]
    for t in dict.fromkeys([layout.tp, 2, 4, 8]):
        if t < layout.tp or any(n % t for n in (gpus, c.heads, c.kv_heads or c.heads, c.ffn, c.vocab_size)):
            continue
        for s in dict.fromkeys([layout.dp_shard, gpus // t]):
            for few, one in itertools.product(dict.fromkeys([micro, 1]), dict.fromkeys([*same, *small])):
                if not gpus % (t * s) and not config.windows % (gpus // t * few):
                    yield Layout(gpus, t, s, gpus // (t * s)), few, one


def _settings(layout: Layout, micro: int, shard: ShardConfig) -> dict[str, Any]:
    """By the names that they have for `cm3 train`."""
    spread = {f"mesh.{name}": getattr(layout, name) for name in ("tp", "dp_shard", "dp_replicate")}
    return {f"shard.{name}": value for name, value in vars(shard).items()} | spread | {"micro": micro}


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
