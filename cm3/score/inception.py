"""The Inception network that FID is defined by, to its 2,048 features (Heusel et al. 2017, arXiv:1706.08500).

No weights are shipped. The file that pytorch-fid publishes, a port of TensorFlow's of 2015, loads as it is. Its network
(Szegedy et al., arXiv:1512.00567) is not torchvision's Inception, which gives other numbers:

- averages over 3 x 3 pixels leave the border's padding out of the count;
- the last block takes the maximum over 3 x 3 pixels, where others take the average;
- the classifier, which is not run, has 1,008 classes.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cm3.errors import CheckpointError
from cm3.files import sha256
from cm3.weights import bare, read_tensors

SIZE = 299
"""Side of the square that it reads."""
WIDTH = 2048
"""Features of a picture."""
PUBLISHED = "6726825d"
"""The first digits of the sha256 of the published file."""
SOURCE = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
"""The place where the file is published."""

_Layer = tuple[str, int, int | tuple[int, int]]
"""(name, channels out, kernel) of a convolution."""
_Chain = tuple[_Layer, ...]

# Convolutions one after the other; names that differ in a last "a" and "b" read the same, and their outputs are joined.
_STEM: _Chain = (
    ("Conv2d_1a_3x3", 32, 3), ("Conv2d_2a_3x3", 32, 3), ("Conv2d_2b_3x3", 64, 3), ("Conv2d_3b_1x1", 80, 1),
    ("Conv2d_4a_3x3", 192, 3),
)  # fmt: skip
_REDUCE_A: tuple[_Chain, ...] = (
    (("branch3x3", 384, 3),),
    (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
)
_REDUCE_B: tuple[_Chain, ...] = (
    (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)),
    (("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
     ("branch7x7x3_4", 192, 3)),
)  # fmt: skip
_SPLIT: tuple[_Chain, ...] = (
    (("branch1x1", 320, 1),),
    (("branch3x3_1", 384, 1), ("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))),
    (("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), ("branch3x3dbl_3a", 384, (1, 3)),
     ("branch3x3dbl_3b", 384, (3, 1))),
    (("branch_pool", 192, 1),),
)  # fmt: skip


def _small(pooled: int) -> tuple[_Chain, ...]:
    return (
        (("branch1x1", 64, 1),),
        (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        (("branch_pool", pooled, 1),),
    )


def _long(c: int) -> tuple[_Chain, ...]:
    return (
        (("branch1x1", 192, 1),),
        (("branch7x7_1", c, 1), ("branch7x7_2", c, (1, 7)), ("branch7x7_3", 192, (7, 1))),
        (("branch7x7dbl_1", c, 1), ("branch7x7dbl_2", c, (7, 1)), ("branch7x7dbl_3", c, (1, 7)),
         ("branch7x7dbl_4", c, (7, 1)), ("branch7x7dbl_5", 192, (1, 7))),
        (("branch_pool", 192, 1),),
    )  # fmt: skip


class _Unit(nn.Module):
    """A convolution, normalised over the batch of its training, without its negative part."""

    def __init__(self, into: int, out: int, kernel: int | tuple[int, int], stride: int, pad: bool) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if pad else 0
        self.conv = nn.Conv2d(into, out, sides, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Chains of convolutions of one input side by side, joined; `pool` is read by the last chain, or joined itself."""

    def __init__(self, into: int, chains: tuple[_Chain, ...], pool: str) -> None:
        super().__init__()
        self.pool, self.chains = pool, [[name for name, _, _ in chain] for chain in chains]
        for chain in chains:
            width = into
            for at, (name, out, kernel) in enumerate(chain):
                halves = pool == "halve" and at == len(chain) - 1
                self.add_module(name, _Unit(width, out, kernel, 2 if halves else 1, not halves))
                width = width if name.endswith("a") else out

    def forward(self, x: Tensor) -> Tensor:
        if self.pool == "halve":
            pooled = F.max_pool2d(x, 3, stride=2)
        elif self.pool == "maximum":
            pooled = F.max_pool2d(x, 3, stride=1, padding=1)
        else:
            pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        found = []
        for chain in self.chains:
            y = pooled if chain == ["branch_pool"] else x
            for name in chain:
                if name.endswith("a"):
                    found.append(getattr(self, name)(y))
                else:
                    y = getattr(self, name)(y)
            found.append(y)
        return torch.cat([*found, pooled] if self.pool == "halve" else found, 1)


class Inception(nn.Module):
    """Pixels float32 (b, 3, 299, 299) in [-1, 1] -> features (b, 2048); frozen."""

    def __init__(self) -> None:
        super().__init__()
        width = 3
        for at, (name, out, kernel) in enumerate(_STEM):
            self.add_module(name, _Unit(width, out, kernel, 2 if at == 0 else 1, at == 2))
            width = out
        blocks = {
            "5b": (192, _small(32), "average"), "5c": (256, _small(64), "average"), "5d": (288, _small(64), "average"),
            "6a": (288, _REDUCE_A, "halve"),
            "6b": (768, _long(128), "average"), "6c": (768, _long(160), "average"), "6d": (768, _long(160), "average"),
            "6e": (768, _long(192), "average"), "7a": (768, _REDUCE_B, "halve"),
            "7b": (1280, _SPLIT, "average"), "7c": (2048, _SPLIT, "maximum"),
        }  # fmt: skip
        for name, (into, chains, pool) in blocks.items():
            self.add_module(f"Mixed_{name}", _Mixed(into, chains, pool))
        self.requires_grad_(False)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        x = pixels
        for name, part in self.named_children():
            x = part(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, stride=2)
        return x.mean((2, 3))

    @classmethod
    def load(cls, path: str | Path) -> tuple[Inception, str]:
        """Load it from the published file, or from one of its layout; returns it and the sha256 of the file.

        Raises `CheckpointError` for a file that is missing (it says where to get it), damaged, or of another network.
        """
        path, what = Path(path), f"features {str(path)!r}"
        if not path.is_file():
            raise CheckpointError(f"{what}: no such file; FID's Inception is published at {SOURCE}")
        given = read_tensors(path, what)
        given = {name: value for name, value in given.items() if not name.endswith("num_batches_tracked")}
        with bare():
            model = cls()
        shapes = {n: tuple(v.shape) for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
        classifier = {"fc.weight": (1008, WIDTH), "fc.bias": (1008,)}  # not run, and not needed
        remedy = f"FID's Inception is published at {SOURCE}"
        if missing := sorted(shapes.keys() - given.keys()):
            raise CheckpointError(f"{what}: no weight {missing[0]!r} ({len(missing)} missing); {remedy}")
        if extra := sorted(given.keys() - shapes.keys() - classifier.keys()):
            raise CheckpointError(f"{what}: weight {extra[0]!r} is not of FID's Inception; {remedy}")
        for name, value in given.items():
            wanted = shapes.get(name) or classifier[name]
            if tuple(value.shape) != wanted or not value.is_floating_point():
                raise CheckpointError(
                    f"{what}: weight {name!r} is {value.dtype} {tuple(value.shape)}, must be of floats {wanted}, as in "
                    f"FID's Inception; {remedy}"
                )
        counts = {
            n: torch.zeros((), dtype=torch.int64) for n in model.state_dict() if n.endswith("num_batches_tracked")
        }
        weights = {name: value.float() for name, value in given.items() if name in shapes}
        model.load_state_dict(weights | counts, assign=True)
        return model.requires_grad_(False).eval(), sha256(path)
