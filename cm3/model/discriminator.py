"""PatchGAN: a critic that scores overlapping patches, its hinge losses, and the weight that balances it.

As in pix2pix (Isola et al. 2017) and taming-transformers (Esser et al. 2021, equation 7).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Pixels (b, c, H, W) in [-1, 1] -> scores (b, 1, h, w), high for real; three layers see patches of 70 pixels."""

    def __init__(self, image_channels: int = 3, channels: int = 64, layers: int = 3):
        super().__init__()
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        stack: list[nn.Module] = [nn.Conv2d(image_channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            stack.append(nn.Conv2d(widths[i - 1], widths[i], 4, stride=stride, padding=1, bias=False))
            stack += [nn.BatchNorm2d(widths[i]), nn.LeakyReLU(0.2)]
        stack.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.main = nn.Sequential(*stack)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        return self.main(pixels)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Return the loss of the critic from its scores: at least 1 for real, at most -1 for fake."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator(fake: Tensor) -> Tensor:
    """Return the loss of the generator from the critic's scores of its images."""
    return -fake.mean()


def adaptive_weight(
    reconstruction: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    limit: float = 1e4,
    mean: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Tensor:
    """Return the ratio of the two losses' gradient norms at the decoder's last layer, in [0, limit], without gradient.

    `mean` makes of a gradient that over all processes that train on the batch.
    """
    mine, theirs = (
        mean(torch.autograd.grad(part, last_layer, retain_graph=True)[0]) for part in (reconstruction, adversarial)
    )
    return (mine.norm() / (theirs.norm() + 1e-4)).clamp(0, limit).detach()
