"""LPIPS: how different two images look, from the features of VGG16 (Zhang et al. 2018, arXiv:1801.03924).

No weights are shipped. Both published files load as they are: torchvision's `vgg16` (`features.N.weight`) and the
`lpips` package's `vgg.pth` (`lin0.model.1.weight`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cm3.errors import CheckpointError
from cm3.weights import read_tensors

# VGG16's convolutions, "M" a pooling; features are taken before each pooling
_VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
_WIDTHS = (64, 128, 256, 512, 512)


class _Lin(nn.Module):
    """One 1x1 convolution at `model.1`, where the published file has it (a dropout stands before it)."""

    def __init__(self, channels: int):
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class LPIPS(nn.Module):
    """Distance (b,) between pixels (b, 3, H, W) in [-1, 1]; frozen, but gradients reach the pixels."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        self.taps: list[int] = []
        for width in _VGG16:
            if isinstance(width, str):
                self.taps.append(len(layers) - 1)
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        for i, width in enumerate(_WIDTHS):
            self.add_module(f"lin{i}", _Lin(width))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """See the class."""
        total = a.new_zeros(a.shape[0])
        for i, (x, y) in enumerate(zip(self._features(a), self._features(b), strict=True)):
            total = total + getattr(self, f"lin{i}")((x - y).square()).mean((1, 2, 3))
        return total

    def _features(self, pixels: Tensor) -> list[Tensor]:
        x = (pixels - self.shift) / self.scale
        found: list[Tensor] = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                norm = x.square().sum(1, keepdim=True).sqrt()
                found.append(x / (norm + 1e-10))
        return found

    @classmethod
    def load(cls, vgg: str | Path, lin: str | Path) -> LPIPS:
        """Load it from the two weight files, .safetensors or .pth.

        Raises CheckpointError naming what is missing, misshaped or not finite.
        """
        model = cls()
        given = _read(vgg) | _read(lin)
        wanted = model.state_dict()
        missing = [name for name in wanted if name not in given]
        if missing:
            raise CheckpointError(
                f"lpips weights {vgg}, {lin}: no tensor {', '.join(missing[:4])} ({len(missing)} missing)"
            )
        shapes = [
            f"{name} is {tuple(given[name].shape)}, must be {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if given[name].shape != tensor.shape
        ]
        if shapes:
            raise CheckpointError(f"lpips weights {vgg}, {lin}: {'; '.join(shapes[:4])}")
        model.load_state_dict({name: given[name] for name in wanted})
        return model


def _read(path: str | Path) -> dict[str, Tensor]:
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; LPIPS needs the published VGG16 and LPIPS weights")
    return read_tensors(path, f"lpips weights {str(path)!r}")
