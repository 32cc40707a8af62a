"""The decoder-only transformer: ids -> logits, and nothing else.

Shape letters, for the whole package: b batch, s sequence, d model width, h heads, k head width, f feed-forward width,
v vocabulary, n tokens of a flattened batch.

The defaults are CM3Leon's (paper section 2.3, Table 3): pre-norm, no biases, no dropout, no learnable norm parameters,
learned positions, tied embeddings, truncated-normal initialisation with the residual outputs at zero. The same class,
configured, is Chameleon: RMS norm, SwiGLU, rotary positions, QK-norm, swin order, untied.

How attention reaches other tokens is the caller's: `attend(layer, q, k, v)` is an argument. Training passes `Causal` or
`Blocked` (cm3/model/attention.py), the engine passes its cache.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cm3.errors import ConfigError
from cm3.model.kernels import RMSNorm, rotate, swiglu
from cm3.model.laid_out import LaidOut, Map, chained, joined, product, turns
from cm3.precision import Choice

RATES = (0.0519, 0.0232, 0.0082)
"""Angles a token, in radians, by which near words are told from far ones. Each alone comes round; all three at once do
not within `REACH`: from 30 tokens on, the weight of a word is less by exp(-8) or more at `near` = 4, the most."""
REACH = 4096
"""Tokens of context within which far words stay told from near ones."""
TAKEN = 2.2
"""Times the mean of near words that a word takes in at the start: four tenths of each, where five or six are near."""
MOST = {"vocab_size": 1 << 24, "d_model": 1 << 17, "layers": 1024, "heads": 4096, "context": 1 << 24, "hidden": 1 << 19}
"""The largest of each number: far over any model's, so that a number beyond is a mistake, and costs nothing."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q, k, v) -> out. q and out (b, h, s, k), k and v (b, g, s, k), where each of g key heads serves h / g query
heads that stand side by side. q and k already carry their norms and rotary positions."""


@dataclass(frozen=True)
class DecoderConfig:
    """Shape and style of a decoder. Raises `ConfigError` for values that do not fit together."""

    vocab_size: int = 65_536
    """Number of ids. A run sets it from its tokenizers."""
    d_model: int = 1024
    """Width."""
    layers: int = 24
    """Number of blocks."""
    heads: int = 16
    """Attention heads."""
    context: int = 4096
    """Longest sequence, in tokens."""
    kv_heads: int | None = None
    """Key and value heads, for grouped-query attention; None is as many as `heads`."""
    hidden: int | None = None
    """Feed-forward width; None is 4 * d_model."""
    activation: Literal["gelu", "relu", "swiglu"] = "gelu"
    """The paper does not say; gelu is our choice."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm or RMSNorm."""
    norm_affine: bool = False
    """Whether norms learn a scale (and a shift, LayerNorm)."""
    norm_order: Literal["pre", "swin"] = "pre"
    """`swin` norms each branch's output, h + norm(attn(h)) (Chameleon 34B)."""
    norm_eps: float = 1e-5
    """Added to the variance in norms."""
    qk_norm: bool = False
    """LayerNorm with a learned scale and shift for each head on q and k (Chameleon section 2.3)."""
    positions: Literal["learned", "rope"] = "learned"
    """A learnt table, or rotary positions."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    grid: tuple[int, int] | None = None
    """(rows, columns) of an image's codes: adds a learned row and column embedding to each code. None: adds nothing."""
    tied: bool = True
    """Whether the output shares the weights of the embedding."""
    near: float = 0.0
    """How near, in tokens, words are that each word takes in before the first layer: of one d tokens back by a weight
    that falls as exp(-d^2 / (2 near^2)). Ours (docs/decisions/0024-near.md); 0 is the paper's, which takes in none."""
    init_std: float = 0.006
    """Standard deviation of the weights at the start."""
    position_std: float = 0.0002
    """The same of learnt positions."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "layers", "heads", "context"):
            if getattr(self, name) < 1:
                raise ConfigError(f"decoder.{name}={getattr(self, name)}: must be at least 1")
        if self.hidden is not None and self.hidden < 1:
            raise ConfigError(f"decoder.hidden={self.hidden}: must be at least 1")
        for name, most in MOST.items():
            if (getattr(self, name) or 0) > most:
                raise ConfigError(f"decoder.{name}={getattr(self, name)}: must be at most {most}")
        for name in ("norm_eps", "rope_theta", "init_std", "position_std"):
            if not 0 < getattr(self, name) < 1e12:
                raise ConfigError(f"decoder.{name}={getattr(self, name)}: must be over 0 and below 1e12")
        if self.d_model % self.heads:
            raise ConfigError(f"decoder.d_model={self.d_model}: must be a multiple of heads={self.heads}")
        if self.head_dim % 2 and self.positions == "rope":
            raise ConfigError(f"decoder.heads={self.heads}: d_model / heads = {self.head_dim} must be even for rope")
        if not (self.near == 0 or 0.5 <= self.near <= 4):
            raise ConfigError(f"decoder.near={self.near}: is a distance in tokens, must be 0, or in 0.5..4")
        if self.near and (self.head_dim < 2 * len(RATES) or self.kv_heads not in (None, self.heads)):
            raise ConfigError(
                f"decoder.near={self.near}: needs heads of a width of at least {2 * len(RATES)}, and as many key heads "
                "as heads; give 0, or such heads"
            )
        if self.near and self.context > REACH:
            raise ConfigError(
                f"decoder.near={self.near}: tells far words from near ones in up to {REACH} tokens; "
                f"give 0, or context={self.context} as {REACH} or less"
            )
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            raise ConfigError(f"decoder.kv_heads={self.kv_heads}: must divide heads={self.heads}")
        for name, known in (
            ("activation", ("gelu", "relu", "swiglu")),
            ("norm", ("layer", "rms")),
            ("norm_order", ("pre", "swin")),
            ("positions", ("learned", "rope")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"decoder.{name}={getattr(self, name)!r}: must be one of {', '.join(known)}")
        if self.grid is not None:
            object.__setattr__(self, "grid", tuple(self.grid))
            if len(self.grid) != 2 or min(self.grid) < 1 or max(self.grid) > 4096:
                raise ConfigError(
                    f"decoder.grid={self.grid}: must be (rows, columns), each at least 1 and at most 4096"
                )

    @property
    def head_dim(self) -> int:
        """Return the width of one head."""
        return self.d_model // self.heads

    @property
    def attentions(self) -> int:
        """Return how many times a pass attends: once a layer, and once before them where there is `near`."""
        return self.layers + bool(self.near)

    @property
    def ffn(self) -> int:
        """Return the feed-forward width."""
        return self.hidden if self.hidden is not None else 4 * self.d_model

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return dataclasses.asdict(self)


class HeadNorm(nn.Module):
    """LayerNorm over the head width with a scale and shift for each head. (b, h, s, k) -> same."""

    def __init__(self, heads: int, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, width))
        self.bias = nn.Parameter(torch.zeros(heads, width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each head's vector."""
        # Tokens before heads, as they lie in memory.
        x = F.layer_norm(x.transpose(1, 2), x.shape[-1:], eps=self.eps)
        return torch.addcmul(self.bias, x, self.weight).transpose(1, 2)


class Block(nn.Module):
    """Attention and feed-forward, each on the residual stream."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        c, d = config, config.d_model
        self.order = c.norm_order
        self.kv_heads = c.kv_heads or c.heads
        self.head_dim = c.head_dim
        self.activation = c.activation
        kv = self.kv_heads * c.head_dim
        self.norm1, self.norm2 = _norm(c), _norm(c)
        self.wq = nn.Linear(d, d, bias=False)
        self.wk = nn.Linear(d, kv, bias=False)
        self.wv = nn.Linear(d, kv, bias=False)
        self.wo = nn.Linear(d, d, bias=False)
        self.q_norm = HeadNorm(c.heads, c.head_dim, c.norm_eps) if c.qk_norm else None
        self.k_norm = HeadNorm(self.kv_heads, c.head_dim, c.norm_eps) if c.qk_norm else None
        self.up = nn.Linear(d, c.ffn, bias=False)
        self.gate = nn.Linear(d, c.ffn, bias=False) if c.activation == "swiglu" else None
        self.down = nn.Linear(c.ffn, d, bias=False)

    def forward(self, x: Tensor, layer: int, rotary: tuple[Tensor, Tensor] | None, attend: Attend) -> Tensor:
        """Map (b, s, d) -> (b, s, d)."""
        if self.order == "pre":
            x = x + self.attention(self.norm1(x), layer, rotary, attend)
            return x + self.feed_forward(self.norm2(x))
        x = x + self.norm1(self.attention(x, layer, rotary, attend))
        return x + self.norm2(self.feed_forward(x))

    def attention(self, x: Tensor, layer: int, rotary: tuple[Tensor, Tensor] | None, attend: Attend) -> Tensor:
        """Project, normalise, rotate, attend, project back."""
        b, s, _ = x.shape
        q, k, v = (
            w(x).view(b, s, -1, self.head_dim).transpose(1, 2) for w in (self.wq, self.wk, self.wv)
        )  # (b, h, s, k)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        out = attend(layer, q, k, v)
        return self.wo(out.transpose(1, 2).reshape(b, s, -1))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Apply two matrices and an activation; three with SwiGLU."""
        if self.gate is not None:
            return self.down(swiglu(self.gate(x), self.up(x)))
        wide = self.up(x)
        return self.down(F.gelu(wide) if self.activation == "gelu" else F.relu(wide))

    def lay_out(self, total: Map | None = None) -> LaidOut:
        """Lay the parameters out in memory for drawing; returns the block that reads them so.

        `total` is done to what goes back to the residual stream: of a share of the weights, the sum over all shares.
        """
        qkv = joined(self.wq.weight, self.wk.weight, self.wv.weight)
        wide = joined(*(layer.weight for layer in (self.gate, self.up) if layer is not None))
        reads, back, widens, down = map(product, (qkv, joined(self.wo.weight), wide, joined(self.down.weight)))
        if total is not None:
            back, down = chained(back, total), chained(down, total)
        return LaidOut(self, reads, back, widens, down)


class Decoder(nn.Module):
    """Ids -> logits. Made with zeros in the residual outputs, so at first each token sees only itself.

    Parameters are drawn from the global torch generator; seed it first for the same bytes.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.position = nn.Embedding(config.context, config.d_model) if config.positions == "learned" else None
        # Index 0 of each is "not an image code" and stays zero.
        self.row = nn.Embedding(config.grid[0] + 1, config.d_model, padding_idx=0) if config.grid else None
        self.column = nn.Embedding(config.grid[1] + 1, config.d_model, padding_idx=0) if config.grid else None
        self.near = nn.Parameter(torch.empty(config.d_model)) if config.near else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = _norm(config)
        self.output = None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.chosen: Choice | None = None
        self._laid_out: list[LaidOut] | None = None
        self._total: Map | None = None
        self._turns: Tensor | None = None
        self._marks: Tensor | None = None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as the paper does (section 2.3): truncated normal at 3 sigma, positions near zero.

        Its "output layers are initialized as 0" is read as the outputs of the residual branches: a zero language-model
        head tied to the embeddings could not start (docs/paper.md 1.7).
        """
        std = self.config.init_std
        for name, weight in self.named_parameters():
            if weight.dim() < 2 or "q_norm" in name or "k_norm" in name:
                continue
            scale = self.config.position_std if name.split(".")[0] in ("position", "row", "column") else std
            if name.endswith(("wo.weight", "down.weight")):
                nn.init.zeros_(weight)
            else:
                nn.init.trunc_normal_(weight, std=scale, a=-3 * scale, b=3 * scale)
        for table in (self.row, self.column):
            if table is not None:
                table.weight[0].zero_()
        if self.near is not None:
            self.near.fill_(TAKEN)

    @property
    def device(self) -> torch.device:
        """Return where its weights are, and its inputs have to be."""
        return self.embed.weight.device

    def hidden(self, ids: Tensor, positions: Tensor, attend: Attend, cells: Tensor | None = None) -> Tensor:
        """Return the final hidden states (b, s, d), normed, ready for `head`.

        ids, positions (b, s) int64. cells (b, s) int64: 0, or 1 + the raster index of an image code in its grid; used
        only where the config has a `grid`, or `near`, where they tell codes from words.
        """
        laid_out = self._laid_out if not torch.is_grad_enabled() and self.is_laid_out else None
        x = self.embed(ids)
        if self.near is not None:
            table = None if laid_out is None else self._marks
            marks = self._marks_of(positions, x.dtype) if table is None else table[positions]
            x = x + self._near(x, marks, attend, cells) * self.near
        if self.position is not None:
            x = x + self.position(positions)
        if self.row is not None and self.column is not None and cells is not None:
            columns = self.column.num_embeddings - 1
            place = cells - 1
            x = x + self.row(torch.where(cells > 0, place // columns + 1, 0))
            x = x + self.column(torch.where(cells > 0, place % columns + 1, 0))
        blocks: Iterable[Any] = self.blocks
        rotary: Any = None
        if laid_out is not None:
            blocks, rotary = laid_out, None if self._turns is None else self._turns[:, positions].unbind()
        elif self.config.positions == "rope":
            rotary = rotary_angles(positions, self.config.head_dim, self.config.rope_theta, x.dtype)
        for layer, block in enumerate(blocks):
            x = block(x, layer, rotary, attend)
        return self.norm(x)

    def lay_out(self, total: Map | None = None) -> Decoder:
        """Lay weights out in memory for steps of few tokens without gradients (laid_out.py); returns itself.

        `total` as in `Block.lay_out`.

        Names, shapes and values stay; `train` takes the layout back. Positions are below the context from then on.
        On another device than a processor, where it was not measured, and of shards nothing is done.
        """
        if self.device.type != "cpu" or any(type(p.data) is not Tensor for p in self.parameters()):
            return self
        self._lay_out_blocks(total)
        joined(self.embed.weight if self.output is None else self.output.weight)
        return self

    def train(self, mode: bool = True) -> Decoder:
        """Set the mode; a decoder that is to learn gets its weights back as torch lays them out.

        Torch's fused AdamW moves the wrong numbers, in silence, of a weight whose gradient has other strides.
        """
        super().train(mode)
        if mode and self._laid_out is not None:
            self._laid_out = self._turns = self._marks = None
            for weight in self.parameters():
                weight.data = weight.data.clone(memory_format=torch.contiguous_format)
        return self

    @property
    def is_laid_out(self) -> bool:
        """Tell whether drawing reads weights as they were laid out: not where any was replaced, or is hooked."""
        laid, blocks = self._laid_out or [], self.blocks
        return len(laid) == len(blocks) > 0 and all(map(LaidOut.stands_for, laid, blocks))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the layout out of copies and pickles, which lay their own weights out."""
        return {**self.__dict__, "_laid_out": [] if self.is_laid_out else None, "_turns": None, "_marks": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._laid_out is not None:
            self.lay_out(self._total)

    def _lay_out_blocks(self, total: Map | None = None) -> None:
        c, blocks = self.config, [block for block in self.blocks if isinstance(block, Block)]
        self._laid_out, self._total = [block.lay_out(total) for block in blocks], total
        places = torch.arange(c.context, device=self.device)[None]
        kind = self.embed.weight.dtype if self.embed.weight.is_floating_point() else torch.float32
        if c.near:
            self._marks = self._marks_of(places, kind)[0]  # (context, k)
        if c.positions == "rope":
            cos, sin = rotary_angles(places, c.head_dim, c.rope_theta, kind)
            self._turns = turns(cos[0, 0], sin[0, 0])[:, :, None]  # (2, context, 1, k)

    def _near(self, x: Tensor, marks: Tensor, attend: Attend, cells: Tensor | None) -> Tensor:
        """Return the mean of the words near each word, (b, s, d), and 0 for codes.

        It is attention whose scores know of distances alone, one layer more to `attend` and to its cache, so that it
        needs nothing else of what came before.
        """
        word = None if cells is None else (cells == 0)[..., None]
        marks = (marks if word is None else marks * word)[:, None].expand(-1, self.config.heads, -1, -1)
        values = x.view(*x.shape[:2], self.config.heads, -1).transpose(1, 2)
        mean = attend(self.config.layers, marks, marks, values).transpose(1, 2).reshape(x.shape)
        return mean if word is None else mean * word

    def _marks_of(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        return near_marks(positions, self.config.near, self.config.head_dim, dtype)

    def head(self, hidden: Tensor, rows: slice | None = None) -> Tensor:
        """Return logits (..., v) of hidden states (..., d); with `rows`, only of that range of ids."""
        weight = self.embed.weight if self.output is None else self.output.weight
        return F.linear(hidden, weight if rows is None else weight[rows])

    def forward(self, ids: Tensor, positions: Tensor, attend: Attend, cells: Tensor | None = None) -> Tensor:
        """Return logits (b, s, v): entry [:, i] predicts the token after i."""
        return self.head(self.hidden(ids, positions, attend, cells))


def near_marks(positions: Tensor, near: float, width: int, dtype: torch.dtype) -> Tensor:
    """Return queries and keys (b, s, k) of words by their places alone.

    After scaling, the score of two words is less by d^2 / (2 near^2) at a small distance d. That of a code, whose marks
    are 0, is 0, far below a word's for itself.
    """
    angles = torch.stack([positions * rate for rate in RATES], -1)  # (b, s, 3)
    size = math.sqrt(math.sqrt(width) / (near**2 * sum(rate**2 for rate in RATES)))
    marks = torch.cat([angles.cos(), angles.sin()], -1) * size
    return F.pad(marks, (0, width - marks.shape[-1])).to(dtype)


def rotary_angles(positions: Tensor, width: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (b, 1, s, k) for rotary positions (Su et al. 2021), halves rotated against each
    other."""
    rate = theta ** (-torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width)  # (k/2,)
    angle = positions[:, None, :, None].float() * rate  # (b, 1, s, k/2)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _norm(config: DecoderConfig) -> nn.Module:
    if config.norm == "rms":
        return RMSNorm(config.d_model, eps=config.norm_eps, elementwise_affine=config.norm_affine)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps, elementwise_affine=config.norm_affine)
