"""One parametric convolutional VQGAN: pixels (b, 3, H, W) to codes (b, H/f, W/f) and back.

The family of taming-transformers, latent diffusion, Chameleon and LlamaGen, with their tensor names, so that their
weights load after little renaming (Make-A-Scene's tokenizer, which CM3Leon uses, is one of them: 256 px, 8,192 codes).
Pixels are float32 in [-1, 1], RGB, channels first: x = uint8 / 127.5 - 1, also where the network itself was trained on
others (`VQGANConfig.pixels`). There are no positions in it, so one set of weights serves every height and width that
`factor` divides.

`patch` 2, 4, 8 or 16 folds pixels into channels before the first convolution and unfolds them after the last, in place
of the one to four levels of highest resolution: those cost most of the time, more than a CPU can pay.

With `reach` 'cell' a code is a function of its own factor x factor pixels alone, so that an edit changes no code of
another cell and the same object has the same codes whatever stands around it (docs/decisions/0018).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cm3.errors import ConfigError, DataError
from cm3.model.quantizers import FSQ, IBQ, Gumbel, Quantized, VectorQuantizer

MOST = {"image_channels": 64, "channels": 1 << 14, "blocks": 32, "decoder_blocks": 32, "z_channels": 1 << 14}
MOST |= {"codes": 1 << 24, "code_dim": 1 << 14, "restart_after": 1 << 62, "groups": 1 << 14}
"""The largest of each number: far over any tokenizer's, so that a number beyond is a mistake, and costs nothing."""
QUANTIZERS = ("fsq", "vq", "ema", "l2", "gumbel", "ibq")
PIXELS = ("-1..1", "0..1")
"""Ranges of pixels that a network may compute on."""


@dataclass(frozen=True)
class VQGANConfig:
    """Shape of a VQGAN; the default is the paper's (section 2.1: 256 px to 1,024 codes of 8,192).

    Level i has `channels * multipliers[i]` channels and half the resolution of the level before; `factor` must be
    `patch * 2 ** (len(multipliers) - 1)`. Each level has `blocks` residual blocks in the encoder and `decoder_blocks`
    (-1: one more than the encoder) in the decoder; `middle` adds two more at the lowest resolution, with self-attention
    between them if `attention`. `attention_levels` are the levels with attention after each block. `resample` is 'conv'
    (the published networks) or 'shuffle' (space folded into channels and a 1x1 convolution: much cheaper). `norm` is
    'group' (over the whole picture, in `groups`, as published) or 'position' (over the channels of each position by
    itself), in both halves. `reach` is of the encoder alone: 'wide' (3x3 convolutions, as published) or 'cell' (1x1
    throughout).

    `quantizer` is 'fsq', 'vq', 'ema', 'l2', 'gumbel' or 'ibq' (see quantizers.py) and works on `code_dim` channels; FSQ
    works on one channel for each of `levels`, whose product `codes` must be. `beta`, `decay` and `restart_after` are
    the commitment weight, the moving average's decay and the steps until an unused code restarts (0: never).
    """

    image_channels: int = 3
    """Channels of a picture."""
    factor: int = 8
    """Pixels a code, along a side."""
    channels: int = 128
    """Channels of the first level."""
    multipliers: tuple[int, ...] = (1, 1, 2, 4)
    """Channels of each level, in multiples of `channels`."""
    blocks: int = 2
    """Residual blocks a level of the encoder."""
    decoder_blocks: int = -1
    """The same of the decoder; -1 is one more than the encoder."""
    middle: bool = True
    """Two more blocks at the lowest resolution."""
    attention: bool = True
    """Self-attention between these two."""
    attention_levels: tuple[int, ...] = ()
    """Levels with attention after each block."""
    patch: int = 1
    """Side of the squares of pixels that the first convolution takes as one."""
    resample: str = "conv"
    """'conv', or 'shuffle', which is cheaper."""
    norm: str = "group"
    """'group', over the whole picture, or 'position', over the channels of each position."""
    groups: int = 0
    """Groups of every 'group' norm, 32 as published; 0 is 32 in layers of 128 channels or more, and fewer in others."""
    reach: str = "wide"
    """'wide', or 'cell': a code sees its own factor x factor pixels alone."""
    z_channels: int = 256
    """Channels before the quantiser."""
    quantizer: str = "ema"
    """'fsq', 'vq', 'ema', 'l2', 'gumbel' or 'ibq'."""
    codes: int = 8192
    """Number of codes."""
    code_dim: int = 256
    """Channels of a code; not used by fsq."""
    levels: tuple[int, ...] = ()
    """Levels of each channel of fsq; their product is `codes`."""
    beta: float = 0.25
    """Weight of the commitment loss."""
    decay: float = 0.99
    """Decay of the moving average of codes."""
    restart_after: int = 256
    """Steps until an unused code starts anew; 0 is never."""
    pixels: str = "-1..1"
    """Range of the network's own pixels, '-1..1' or '0..1'; what goes in and comes out is in [-1, 1] either way."""

    def __post_init__(self) -> None:
        """Check every field and say everything that is wrong at once."""
        wrong: list[str] = []
        lowest = {"image_channels": 1, "channels": 1, "blocks": 0, "decoder_blocks": -1, "z_channels": 1, "codes": 2}
        lowest |= {"code_dim": 1, "restart_after": 0, "groups": 0}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                wrong.append(f"vqgan.{name}={getattr(self, name)}: must be at least {low}")
        for name, most in MOST.items():
            if getattr(self, name) > most:
                wrong.append(f"vqgan.{name}={getattr(self, name)}: must be at most {most}")
        if self.patch not in (1, 2, 4, 8, 16):
            wrong.append(f"vqgan.patch={self.patch}: must be 1, 2, 4, 8 or 16")
        if not 1 <= len(self.multipliers) <= 16 or min(self.multipliers) < 1 or max(self.multipliers) > 1024:
            raise ConfigError(
                f"vqgan.multipliers={self.multipliers!r:.60}: needs at least one level, each at least 1; at most 16 "
                "levels, each at most 1024"
            )
        if len(self.levels) > 64 or any(not 2 <= level <= 65_536 for level in self.levels):
            raise ConfigError(f"vqgan.levels={self.levels!r:.60}: needs at most 64 channels of 2 to 65536 levels each")
        made = self.patch * 2 ** (len(self.multipliers) - 1)
        if self.factor != made:
            wrong.append(
                f"vqgan.factor={self.factor}: must be patch * 2 ** (len(multipliers) - 1) = {made}; "
                "change patch or the number of multipliers"
            )
        if any(not 0 <= level < len(self.multipliers) for level in self.attention_levels):
            wrong.append(f"vqgan.attention_levels={self.attention_levels}: must be in 0..{len(self.multipliers) - 1}")
        if self.resample not in ("conv", "shuffle"):
            wrong.append(f"vqgan.resample={self.resample!r:.60}: must be 'conv' or 'shuffle'")
        if self.norm not in ("group", "position"):
            wrong.append(f"vqgan.norm={self.norm!r:.60}: must be 'group' or 'position'")
        if self.reach not in ("wide", "cell"):
            wrong.append(f"vqgan.reach={self.reach!r:.60}: must be 'wide' or 'cell'")
        if self.reach == "cell":
            local = {
                "norm='position'": self.norm == "position",
                "resample='shuffle'": self.resample == "shuffle",
                "patch over 1": self.patch > 1,
                "attention=False": not self.attention,
                "attention_levels=()": not self.attention_levels,
            }
            if not all(local.values()):
                missing = " and ".join(name for name, holds in local.items() if not holds)
                wrong.append(
                    f"vqgan.reach='cell': a code may see no other cell, which needs {missing}; or reach='wide'"
                )
        if self.quantizer not in QUANTIZERS:
            wrong.append(f"vqgan.quantizer={self.quantizer!r:.60}: must be one of {', '.join(QUANTIZERS)}")
        if self.quantizer == "fsq" and (not self.levels or math.prod(self.levels) != self.codes):
            wrong.append(
                f"vqgan.codes={self.codes}: must be the product of levels={self.levels} = {math.prod(self.levels)} "
                "for quantizer='fsq'; set both"
            )
        if self.quantizer != "fsq" and self.levels:
            wrong.append(f"vqgan.levels={self.levels}: only for quantizer='fsq'; leave it empty")
        widths = (self.channels, *(self.channels * m for m in self.multipliers))
        if self.norm == "group" and self.groups and (odd := [w for w in widths if w % self.groups]):
            wrong.append(
                f"vqgan.groups={self.groups}: must divide the channels of every level, and not those of {odd[0]}"
            )
        if self.norm == "position" and self.groups:
            wrong.append(f"vqgan.groups={self.groups}: only for norm='group'; leave it 0")
        if self.pixels not in PIXELS:
            wrong.append(f"vqgan.pixels={self.pixels!r:.60}: must be one of {', '.join(PIXELS)}")
        if not 0.0 < self.decay < 1.0:
            wrong.append(f"vqgan.decay={self.decay}: must be between 0 and 1")
        if self.beta < 0:
            wrong.append(f"vqgan.beta={self.beta}: must not be negative")
        if wrong:
            raise ConfigError("; ".join(wrong))

    @property
    def latent_dim(self) -> int:
        """Return the channels of the quantised grid."""
        return len(self.levels) if self.quantizer == "fsq" else self.code_dim


def paper(**changes: Any) -> VQGANConfig:
    """Return the paper's geometry: f8, 256 px, 8,192 codes (the network itself is unpublished; this is its family's
    usual)."""
    return replace(VQGANConfig(), **changes)


def small(factor: int = 16, levels: tuple[int, ...] = (8, 8, 8, 5), **changes: Any) -> VQGANConfig:
    """Return a config of about 1M parameters with strictly local FSQ codes, to train on one processor core in minutes;
    factor 8 or 16."""
    if factor not in (8, 16):
        raise ConfigError(f"factor={factor}: the small tokenizer comes as 8 or 16; write a VQGANConfig for others")
    config = VQGANConfig(
        factor=factor,
        channels=8,
        multipliers=(3, 6, 16) if factor == 16 else (6, 16),
        blocks=1,
        decoder_blocks=1,
        middle=False,
        attention=False,
        patch=4,
        resample="shuffle",
        norm="position",
        reach="cell",
        z_channels=64,
        quantizer="fsq",
        codes=math.prod(levels),
        levels=levels,
    )
    return replace(config, **changes)


class Reconstruction(NamedTuple):
    """The output of `VQGAN.forward`: pixels (b, 3, H, W) unclamped, codes (b, h, w), the quantiser's loss, its grid."""

    pixels: Tensor
    codes: Tensor
    loss: Tensor
    z_q: Tensor


class PositionNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position by itself."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) -> same."""
        # a view where channels come last in memory, and they do in what comes out, which convolutions like best
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


Norm = Callable[[int], nn.Module]
"""Channels -> a norm over them."""


def _norm_of(config: VQGANConfig) -> Norm:
    if config.norm == "position":
        return lambda channels: PositionNorm(channels, eps=1e-6)
    return lambda channels: nn.GroupNorm(config.groups or _groups(channels), channels, eps=1e-6)


def _groups(channels: int) -> int:
    # 32 groups as published wherever that leaves a group at least 4 channels, fewer in thin layers
    return next(g for g in range(min(32, max(1, channels // 4)), 0, -1) if channels % g == 0)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on the shortcut where channels change."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, kernel: int):
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.norm2 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel, padding=kernel // 2)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, inputs, h, w) -> (b, outputs, h, w)."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class Attention(nn.Module):
    """Residual single-head self-attention over all cells of the grid."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.norm = norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) -> same."""
        y = self.norm(x)
        q, k, v = (f(y).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))  # (b, h * w, c)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(y.transpose(1, 2).reshape(x.shape))


class Resample(nn.Module):
    """Half the resolution by a strided convolution padded right and below, or twice by nearest, then convolution."""

    def __init__(self, channels: int, up: bool):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if up else nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) -> (b, c, h * 2, w * 2) or (b, c, h / 2, w / 2)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.pad(x, (0, 1, 0, 1)))


class Shuffle(nn.Module):
    """The same by moving space into channels or back, around a 1x1 convolution at the lower resolution."""

    def __init__(self, channels: int, up: bool):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, 4 * channels, 1) if up else nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) -> (b, c, h * 2, w * 2) or (b, c, h / 2, w / 2)."""
        return F.pixel_shuffle(self.conv(x), 2) if self.up else self.conv(F.pixel_unshuffle(x, 2))


class _Level(nn.Module):
    def __init__(self, inputs: int, outputs: int, blocks: int, attention: bool, norm: Norm, kernel: int):
        super().__init__()
        self.block = nn.ModuleList(
            ResBlock(inputs if i == 0 else outputs, outputs, norm, kernel) for i in range(blocks)
        )
        self.attn = nn.ModuleList(Attention(outputs, norm) for _ in range(blocks if attention else 0))
        self.downsample: Resample | Shuffle | None = None
        self.upsample: Resample | Shuffle | None = None

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        for resample in (self.downsample, self.upsample):
            x = x if resample is None else resample(x)
        return x


class _Middle(nn.Module):
    def __init__(self, channels: int, attention: bool, norm: Norm, kernel: int):
        super().__init__()
        self.block_1 = ResBlock(channels, channels, norm, kernel)
        self.attn_1 = Attention(channels, norm) if attention else None
        self.block_2 = ResBlock(channels, channels, norm, kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block_1(x)
        return self.block_2(x if self.attn_1 is None else self.attn_1(x))


class Encoder(nn.Module):
    """(b, 3, H, W) -> (b, z_channels, H / f, W / f)."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        self.patch, norm = config.patch, _norm_of(config)
        resample = Resample if config.resample == "conv" else Shuffle
        widths = [config.channels * m for m in config.multipliers]
        # taming's stem has the base width, whatever the first multiplier
        inputs = config.channels if config.patch == 1 else widths[0]
        # patches do not overlap: a 1x1 convolution embeds them, at a ninth of the cost
        stem = 3 if config.patch == 1 else 1
        self.conv_in = nn.Conv2d(config.image_channels * config.patch**2, inputs, stem, padding=stem // 2)
        kernel = 1 if config.reach == "cell" else 3
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            level = _Level(inputs, width, config.blocks, i in config.attention_levels, norm, kernel)
            inputs = width if config.blocks else inputs
            if i < len(widths) - 1:
                level.downsample = resample(inputs, up=False)
            self.down.append(level)
        self.mid = _Middle(inputs, config.attention, norm, kernel) if config.middle else None
        self.norm_out = norm(inputs)
        self.conv_out = nn.Conv2d(inputs, config.z_channels, kernel, padding=kernel // 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        x = self.conv_in(F.pixel_unshuffle(pixels, self.patch) if self.patch > 1 else pixels)
        for level in self.down:
            x = level(x)
        x = x if self.mid is None else self.mid(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """(b, z_channels, h, w) -> (b, 3, h * f, w * f)."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        self.patch, norm = config.patch, _norm_of(config)
        resample = Resample if config.resample == "conv" else Shuffle
        blocks = config.blocks + 1 if config.decoder_blocks < 0 else config.decoder_blocks
        inputs = config.channels * config.multipliers[-1]
        self.conv_in = nn.Conv2d(config.z_channels, inputs, 3, padding=1)
        self.mid = _Middle(inputs, config.attention, norm, 3) if config.middle else None
        # `up` is indexed by level, as in taming: the lowest resolution is the last entry and runs first
        levels: list[_Level] = []
        for i in range(len(config.multipliers) - 1, -1, -1):
            width = config.channels * config.multipliers[i]
            level = _Level(inputs, width, blocks, i in config.attention_levels, norm, 3)
            inputs = width if blocks else inputs
            if i > 0:
                level.upsample = resample(inputs, up=True)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = norm(inputs)
        self.conv_out = nn.Conv2d(inputs, config.image_channels * config.patch**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """See the class."""
        x = self.conv_in(z)
        x = x if self.mid is None else self.mid(x)
        for level in reversed(self.up):
            x = level(x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x


class VQGAN(nn.Module):
    """Encoder, quantiser and decoder; see the module for ranges and shapes."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.latent_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_dim, config.z_channels, 1)
        self.quantize: FSQ | VectorQuantizer | Gumbel | IBQ
        if config.quantizer == "fsq":
            self.quantize = FSQ(config.levels)
        elif config.quantizer == "gumbel":
            self.quantize = Gumbel(config.codes, config.code_dim)
        elif config.quantizer == "ibq":
            self.quantize = IBQ(config.codes, config.code_dim, beta=config.beta)
        else:
            self.quantize = VectorQuantizer(
                config.codes,
                config.code_dim,
                "plain" if config.quantizer == "vq" else config.quantizer,
                beta=config.beta,
                decay=config.decay,
                restart_after=config.restart_after,
            )

    def fingerprint(self, **more: Any) -> str:
        """Return a name for the shape, the weights and what `more` is said of them, sha256 in hexadecimal.

        Weights count as half precision, so that a model which was saved so keeps the name.
        """
        # fields that came later count only where they say something, so that older models keep their names
        later = {"norm": "group", "reach": "wide", "groups": 0, "pixels": "-1..1"}
        shape = {name: value for name, value in asdict(self.config).items() if later.get(name) != value}
        about = {"shape": shape, **more}
        hashed = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for name, weight in sorted(self.state_dict().items()):
            value = weight.detach().cpu()
            value = value.half() if value.is_floating_point() else value.to(torch.int64)
            hashed.update(name.encode() + value.contiguous().numpy().tobytes())
        return hashed.hexdigest()

    def latents(self, pixels: Tensor) -> Tensor:
        """Encode, up to what is quantised (b, latent_dim, H / f, W / f); raises DataError as `quantized`."""
        f, c = self.config.factor, self.config.image_channels
        if pixels.ndim != 4 or pixels.shape[1] != c or any(n == 0 or n % f for n in pixels.shape[2:]):
            raise DataError(
                f"pixels of shape {tuple(pixels.shape)}: must be (batch, {c}, height, width) with height and width "
                f"multiples of {f}; resize or crop first"
            )
        return self.quant_conv(self.encoder(pixels if self.config.pixels == "-1..1" else (pixels + 1) / 2))

    def draw(self, z_q: Tensor) -> Tensor:
        """Decode a quantised grid (b, latent_dim, h, w) to pixels (b, 3, h * f, w * f), with gradients."""
        pixels = self.decoder(self.post_quant_conv(z_q))
        return pixels if self.config.pixels == "-1..1" else pixels * 2 - 1

    def quantized(self, pixels: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Encode and quantise; raises DataError where `factor` does not divide the height and width."""
        return self.quantize(self.latents(pixels), generator)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Map pixels (b, 3, H, W) in [-1, 1] -> codes (b, H / f, W / f) int64 in [0, codes). No gradient."""
        return self.quantized(pixels).codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Map codes (b, h, w) -> pixels (b, 3, h * f, w * f), about [-1, 1], not clamped. No gradient."""
        if codes.ndim != 3 or codes.is_floating_point():
            raise DataError(f"codes of shape {tuple(codes.shape)} and {codes.dtype}: must be integers (batch, h, w)")
        codes = codes.long()
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.config.codes):
            raise DataError(f"codes {int(codes.min())}..{int(codes.max())}: must be within 0..{self.config.codes - 1}")
        return self.draw(self.quantize.lookup(codes))

    def forward(self, pixels: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Reconstruct, with gradients; `generator` is for quantisers that draw (restarts, Gumbel)."""
        z_q, codes, loss = self.quantized(pixels, generator)
        return Reconstruction(self.draw(z_q), codes, loss, z_q)
