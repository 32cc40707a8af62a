"""The memory of one GPU in training, by part, from the shapes alone. For `plan` (cm3/train/plan.py).

Of a run that `cm3.parallel` spreads: weights, gradients and the optimizer's state in float32, split over `dp_shard`
and, the blocks' matrices and the vocabulary's tables, over `tp`; each block's weights gathered when their turn comes;
logits made and thrown away a chunk at a time (cm3/model/loss.py); attention that keeps no square of the length.

    a block keeps, for each token       x, norm(x), x', norm(x')          4 d         whole on each tensor-parallel rank
    (pre-norm; numbers, not bytes)      q, k, v, attention's sum          4 d         split
                                        feed-forward, between its two     2 f gelu, 1 f relu, 3 f swiglu      split
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cm3.errors import ConfigError
from cm3.model.decoder import DecoderConfig
from cm3.parallel import MeshConfig, ShardConfig
from cm3.train.trainer import TrainConfig

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
        """The mesh over so many GPUs. Raises `ConfigError` for what does not divide them or the model."""
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
        return cls(gpus, tp, shard, replicate)

    @property
    def ranks(self) -> int:
        """Ranks that read data of their own."""
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
        """All together."""
        return sum(dataclasses.asdict(self).values())

    @property
    def largest(self) -> str:
        """The name of the largest part."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


def parts_of(c: DecoderConfig) -> dict[str, int]:
    """Parameters by part; their sum is `cm3.model.sizes.parameters`."""
    d, kv = c.d_model, _kv(c)
    norm = d * (2 if c.norm == "layer" else 1) if c.norm_affine else 0
    return {
        "embedding": c.vocab_size * d,
        "positions": c.context * d if c.positions == "learned" else 0,
        "grid": (sum(c.grid) + 2) * d if c.grid else 0,
        "attention": c.layers * (2 * d * d + 2 * d * kv),
        "feed_forward": c.layers * (3 if c.activation == "swiglu" else 2) * d * c.ffn,
        "norms": (2 * c.layers + 1) * norm + (c.layers * 2 * (d + kv) if c.qk_norm else 0),
        "output": 0 if c.tied else c.vocab_size * d,
    }


def optimizer_bytes(c: DecoderConfig, name: str) -> int:
    """Bytes of the whole state: two moments in float32; one for each matrix of the blocks with Muon."""
    parts = parts_of(c)
    matrices = parts["attention"] + parts["feed_forward"]
    return FULL * (2 * sum(parts.values()) - (matrices if name == "muon" else 0))


def activations_per_token(c: DecoderConfig, tp: int = 1) -> float:
    """Numbers that one block keeps for the backward pass, for each token."""
    between = {"gelu": 2, "relu": 1, "swiglu": 3}[c.activation] * c.ffn
    # Before and after the norms of the heads, and attention's sum in another order.
    norms = 2 * (c.d_model + _kv(c)) + c.d_model if c.qk_norm else 0
    return 4 * c.d_model + (4 * c.d_model + norms + between) / tp


def products_of(c: DecoderConfig, tp: int = 1) -> list[tuple[float, float]]:
    """(in, out) of each matrix of a block, as one tensor-parallel rank has it."""
    d, kv, f = c.d_model, _kv(c), c.ffn
    wide = 2 if c.activation == "swiglu" else 1
    return [(d, d / tp), (d, kv / tp), (d, kv / tp), (d / tp, d), *[(d, f / tp)] * wide, (f / tp, d)]


def recomputed_flops(c: DecoderConfig, shard: ShardConfig, length: int, tp: int = 1) -> float:
    """FLOP a token that activation checkpointing adds: what it does not keep of the blocks is computed twice."""
    products = [2 * a * b * tp for a, b in products_of(c, tp)]
    if shard.activation_checkpointing == "selective":
        one = sum(f for f, (a, b) in zip(products, products_of(c, tp), strict=True) if b > a)
    else:
        one = sum(products) + 2 * c.d_model * length
    return _checkpointed(c, shard) * one


def activation_bytes(c: DecoderConfig, tokens: int, shard: ShardConfig, tp: int = 1) -> float:
    """Bytes of activations at the worst moment of a pass: the blocks', and three of d around them.

    A block that is checkpointed keeps its input and, with 'selective', the sums of attention and the products no wider
    than what they read (cm3/parallel/shard.py); one such block at a time is there in full. The backward pass adds the
    gradient of a feed-forward's inside and of its two ends.
    """
    one, few, width = activations_per_token(c, tp), _checkpointed(c, shard), _width(shard)
    left = float(c.d_model)
    if shard.activation_checkpointing == "selective":
        left += c.d_model / tp + sum(b for a, b in products_of(c, tp) if b <= a)
    kept = (c.layers - few) * one + few * left + (one - c.d_model if few else 0)
    return width * tokens * (kept + 3 * c.d_model + c.ffn / tp + 2 * c.d_model)


def memory_of(config: TrainConfig, layout: Layout, shard: ShardConfig, micro: int) -> Memory:
    """Memory of a GPU with `micro` windows at once."""
    c, parts, muon = config.model, parts_of(config.model), config.optim.name == "muon"
    split = (parts["attention"] + parts["feed_forward"]) / layout.tp  # the blocks' matrices
    rest = (parts["embedding"] + parts["output"]) / layout.tp
    rest += parts["positions"] + parts["grid"] + parts["norms"]
    local = FULL * (split + rest) / layout.dp_shard
    block, width, gathered = split / c.layers, _width(shard), 0.0
    if layout.ranks > 1 or width == HALF:
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
        activations=activation_bytes(c, tokens, shard, layout.tp),
        logits=(FULL * logits if logits <= KEEP_LOGITS else 0) + LOGIT * min(CHUNK, tokens) * c.vocab_size,
        runtime=RUNTIME,
        margin=0.0,
    )
    return dataclasses.replace(found, margin=MARGIN * found.total)


def _kv(c: DecoderConfig) -> int:
    return (c.kv_heads or c.heads) * c.head_dim


def _width(shard: ShardConfig) -> int:
    return HALF if shard.precision == "bfloat16" else FULL


def _checkpointed(c: DecoderConfig, shard: ShardConfig) -> int:
    """How many blocks are."""
    return 0 if shard.activation_checkpointing == "none" else -(-c.layers // shard.checkpoint_every)
