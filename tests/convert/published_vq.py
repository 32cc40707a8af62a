"""Published image tokenizers, small: weights under the published names, and the arithmetic of the published networks.

Written from what the papers and the repositories say of the networks, and without the package: names are spelt out
here, and every step is a few lines on float64. Widths are small; depths, names and rules are the published ones.

    x -> conv -> levels of blocks, each level but the last ends at half the side -> middle -> norm, silu, conv -> z
    z -> 1x1 -> codes -> vectors -> 1x1 -> conv -> middle -> levels of blocks, doubled -> norm, silu, conv -> y
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
GROUPS = 32


@dataclass(frozen=True)
class Spec:
    """A network's numbers; `inner` are the levels with attention after each block."""

    ch: int = 32
    mult: tuple[int, ...] = (1, 2)
    blocks: int = 2
    inner: tuple[int, ...] = ()
    middle_attention: bool = True
    z: int = 8
    dim: int = 8
    codes: int = 48
    rule: str = "nearest"
    """How a code is chosen: nearest, unit (nearest of unit vectors), gumbel (a 1x1 convolution's largest), product."""


class Taming:
    """Names of taming-transformers, latent diffusion, Chameleon, open-muse and SEED-Voken: levels by resolution."""

    def __init__(self, spec: Spec) -> None:
        self.levels = len(spec.mult)

    def block(self, half: str, level: int, number: int) -> str:
        return f"{half}.{'down' if half == 'encoder' else 'up'}.{level}.block.{number}"

    def attention(self, half: str, level: int, number: int) -> str:
        return f"{half}.{'down' if half == 'encoder' else 'up'}.{level}.attn.{number}"

    def resample(self, half: str, level: int) -> str:
        return f"encoder.down.{level}.downsample.conv" if half == "encoder" else f"decoder.up.{level}.upsample.conv"

    def middle(self, half: str, part: int) -> str:
        return f"{half}.mid.{('block_1', 'attn_1', 'block_2')[part]}"


class LlamaGen(Taming):
    """Names of LlamaGen and of Janus's VQ-16: levels of the decoder in the order in which they run."""

    def _level(self, half: str, level: int) -> str:
        return f"{half}.conv_blocks.{level if half == 'encoder' else self.levels - 1 - level}"

    def block(self, half: str, level: int, number: int) -> str:
        return f"{self._level(half, level)}.res.{number}"

    def attention(self, half: str, level: int, number: int) -> str:
        return f"{self._level(half, level)}.attn.{number}"

    def resample(self, half: str, level: int) -> str:
        return f"{self._level(half, level)}.{'downsample' if half == 'encoder' else 'upsample'}.conv"

    def middle(self, half: str, part: int) -> str:
        return f"{half}.mid.{part}"


def weights(spec: Spec, names: Taming, seed: int = 0) -> Weights:
    """Draw the weights of a network, of a size at which activations keep about theirs."""
    draw = torch.Generator().manual_seed(seed)
    made: Weights = {}

    def conv(name: str, into: int, out: int, side: int) -> None:
        made[f"{name}.weight"] = torch.randn(out, into, side, side, generator=draw) * (into * side * side) ** -0.5
        made[f"{name}.bias"] = torch.randn(out, generator=draw) * 0.1

    def norm(name: str, channels: int) -> None:
        made[f"{name}.weight"] = 1 + 0.2 * torch.randn(channels, generator=draw)
        made[f"{name}.bias"] = 0.2 * torch.randn(channels, generator=draw)

    def block(name: str, into: int, out: int) -> None:
        norm(f"{name}.norm1", into)
        conv(f"{name}.conv1", into, out, 3)
        norm(f"{name}.norm2", out)
        conv(f"{name}.conv2", out, out, 3)
        if into != out:
            conv(f"{name}.nin_shortcut", into, out, 1)

    def attention(name: str, channels: int) -> None:
        norm(f"{name}.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", channels, channels, 1)

    def middle(half: str, channels: int) -> None:
        block(names.middle(half, 0), channels, channels)
        if spec.middle_attention:
            attention(names.middle(half, 1), channels)
        block(names.middle(half, 2), channels, channels)

    widths = [spec.ch * m for m in spec.mult]
    conv("encoder.conv_in", 3, spec.ch, 3)
    here = spec.ch
    for level, width in enumerate(widths):
        for number in range(spec.blocks):
            block(names.block("encoder", level, number), here, width)
            here = width
            if level in spec.inner:
                attention(names.attention("encoder", level, number), width)
        if level < len(widths) - 1:
            conv(names.resample("encoder", level), width, width, 3)
    middle("encoder", here)
    norm("encoder.norm_out", here)
    conv("encoder.conv_out", here, spec.z, 3)
    conv("decoder.conv_in", spec.z, here, 3)
    middle("decoder", here)
    for level in reversed(range(len(widths))):
        for number in range(spec.blocks + 1):
            block(names.block("decoder", level, number), here, widths[level])
            here = widths[level]
            if level in spec.inner:
                attention(names.attention("decoder", level, number), here)
        if level > 0:
            conv(names.resample("decoder", level), here, here, 3)
    norm("decoder.norm_out", here)
    conv("decoder.conv_out", here, 3, 3)
    conv("quant_conv", spec.z, spec.dim, 1)
    conv("post_quant_conv", spec.dim, spec.z, 1)
    table = torch.randn(spec.codes, spec.dim, generator=draw)
    if spec.rule == "gumbel":
        conv("quantize.proj", spec.dim, spec.codes, 1)
        made["quantize.embed.weight"] = table
    else:
        made["quantize.embedding.weight"] = table
    return made


class Network:
    """The published network of some weights, in float64."""

    def __init__(self, spec: Spec, names: Taming, made: Weights) -> None:
        self.spec, self.names, self.w = spec, names, {n: t.double() for n, t in made.items()}

    def _conv(self, name: str, x: Tensor, **how: int) -> Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], **how)  # type: ignore[arg-type]

    def _norm(self, name: str, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        flat = x.reshape(b, GROUPS, -1)
        flat = (flat - flat.mean(-1, keepdim=True)) / (flat.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        weight, bias = (self.w[f"{name}.{part}"].view(1, c, 1, 1) for part in ("weight", "bias"))
        return flat.reshape(b, c, h, w) * weight + bias

    def _block(self, name: str, x: Tensor) -> Tensor:
        y = self._norm(f"{name}.norm1", x)
        y = self._conv(f"{name}.conv1", y * torch.sigmoid(y), padding=1)
        y = self._norm(f"{name}.norm2", y)
        y = self._conv(f"{name}.conv2", y * torch.sigmoid(y), padding=1)
        return y + (self._conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.w else x)

    def _attention(self, name: str, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = self._norm(f"{name}.norm", x)
        q, k, v = (self._conv(f"{name}.{part}", y).reshape(b, c, h * w) for part in "qkv")
        scores = torch.einsum("bci,bcj->bij", q, k) / c**0.5
        seen = torch.einsum("bij,bcj->bci", scores.softmax(-1), v)
        return x + self._conv(f"{name}.proj_out", seen.reshape(b, c, h, w))

    def _middle(self, half: str, x: Tensor) -> Tensor:
        x = self._block(self.names.middle(half, 0), x)
        if self.spec.middle_attention:
            x = self._attention(self.names.middle(half, 1), x)
        return self._block(self.names.middle(half, 2), x)

    def _level(self, half: str, level: int, blocks: int, x: Tensor) -> Tensor:
        for number in range(blocks):
            x = self._block(self.names.block(half, level, number), x)
            if level in self.spec.inner:
                x = self._attention(self.names.attention(half, level, number), x)
        return x

    def scores(self, x: Tensor) -> Tensor:
        """Score every code (b, codes, h, w) for pixels (b, 3, H, W) in the network's own range; the largest wins."""
        levels = len(self.spec.mult)
        y = self._conv("encoder.conv_in", x.double(), padding=1)
        for level in range(levels):
            y = self._level("encoder", level, self.spec.blocks, y)
            if level < levels - 1:
                y = self._conv(self.names.resample("encoder", level), F.pad(y, (0, 1, 0, 1)), stride=2)
        y = self._norm("encoder.norm_out", self._middle("encoder", y))
        z = self._conv("quant_conv", self._conv("encoder.conv_out", y * torch.sigmoid(y), padding=1))
        if self.spec.rule == "gumbel":
            return self._conv("quantize.proj", z)
        table = self.table()
        if self.spec.rule == "product":
            return torch.einsum("bdhw,nd->bnhw", z, table)
        if self.spec.rule == "unit":
            z = z / z.norm(dim=1, keepdim=True)
        return -(z.unsqueeze(1) - table[None, :, :, None, None]).square().sum(2)

    def table(self) -> Tensor:
        """The vectors of the codes."""
        table = self.w["quantize.embed.weight" if self.spec.rule == "gumbel" else "quantize.embedding.weight"]
        return table / table.norm(dim=1, keepdim=True) if self.spec.rule == "unit" else table

    def draw(self, codes: Tensor) -> Tensor:
        """Pixels (b, 3, H, W) of codes (b, h, w), in the network's own range."""
        y = self._conv("post_quant_conv", self.table()[codes].permute(0, 3, 1, 2))
        y = self._middle("decoder", self._conv("decoder.conv_in", y, padding=1))
        for level in reversed(range(len(self.spec.mult))):
            y = self._level("decoder", level, self.spec.blocks + 1, y)
            if level > 0:
                y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
                y = self._conv(self.names.resample("decoder", level), y, padding=1)
        y = self._norm("decoder.norm_out", y)
        return self._conv("decoder.conv_out", y * torch.sigmoid(y), padding=1)


TAMING_F16 = Spec(mult=(1, 1, 2), inner=(2,))
LATENT_F8 = Spec(mult=(1, 2), inner=(1,), z=4, dim=4)
GUMBEL_F8 = Spec(mult=(1, 1, 2), inner=(2,), rule="gumbel")
CHAMELEON = Spec(mult=(1, 1, 1, 1, 2))
OPEN_MUSE = Spec(mult=(1, 2, 3), middle_attention=False)
LLAMAGEN_8 = Spec(mult=(1, 2), inner=(1,), dim=4, rule="unit")
LLAMAGEN_16 = Spec(mult=(1, 1, 2), inner=(2,), dim=4, rule="unit")
IBQ = Spec(mult=(1, 2), blocks=4, inner=(1,), rule="product")


def with_averages(made: Weights, averages: Weights) -> Weights:
    """SEED-Voken's checkpoint: the weights of the last step, and averages under names without dots; with its critic."""
    found = made | {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in averages.items()}
    found |= {
        "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4),
        "model_ema.lossdiscriminatormain0weight": torch.ones(4),
    }
    return found | {
        "model_ema.decay": torch.tensor(0.999),
        "model_ema.num_updates": torch.tensor(-1, dtype=torch.int32),
    }
