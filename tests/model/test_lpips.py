"""LPIPS loads the published layouts, is a distance, and says what is wrong with a weight file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from cm3.errors import CheckpointError
from cm3.model.lpips import LPIPS

# torchvision's vgg16: index in `features` of each convolution, and its (out, in) channels
CONVOLUTIONS = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)}
CONVOLUTIONS |= {17: (512, 256), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)}


@pytest.fixture(scope="module")
def weights() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    vgg = {}
    for index, (outputs, inputs) in CONVOLUTIONS.items():
        vgg[f"features.{index}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=g) * (2 / (9 * inputs)) ** 0.5
        vgg[f"features.{index}.bias"] = torch.zeros(outputs)
    vgg["classifier.6.bias"] = torch.zeros(10)  # the published file has a classifier, which is ignored
    lin = {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=g)
        for i, width in enumerate((64, 128, 256, 512, 512))
    }
    return vgg, lin


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, weights) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("lpips")
    save_file(weights[0], folder / "vgg.safetensors")
    torch.save(weights[1], folder / "lin.pth")
    return folder / "vgg.safetensors", folder / "lin.pth"


def test_equals_the_formula_of_the_paper(files: tuple[Path, Path], weights) -> None:
    vgg, lin = weights
    g = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 3, 32, 32, generator=g) * 2 - 1, torch.rand(2, 3, 32, 32, generator=g) * 2 - 1

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        # [-1, 1] -> [0, 1] -> ImageNet's normalisation, which the published constants fold into one
        x = (x - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[
            :, None, None
        ]
        found = []
        for index in CONVOLUTIONS:
            if index in (5, 10, 17, 24):
                found.append(x)
                x = F.max_pool2d(x, 2)
            x = F.conv2d(x, vgg[f"features.{index}.weight"], vgg[f"features.{index}.bias"], padding=1).relu()
        return [*found, x]

    want = torch.zeros(2)
    for i, (x, y) in enumerate(zip(features(a), features(b), strict=True)):
        difference = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
        want += (difference * lin[f"lin{i}.model.1.weight"]).sum(1).mean((1, 2))
    torch.testing.assert_close(LPIPS.load(*files)(a, b), want, rtol=1e-4, atol=1e-6)


def test_is_zero_for_equal_images_and_sends_a_gradient_to_the_pixels_only(files: tuple[Path, Path]) -> None:
    model = LPIPS.load(*files)
    a = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    assert float(model(a, a)) == 0.0
    b = (a * 0.5).requires_grad_()
    distance = model(b, a)
    distance.sum().backward()
    assert float(distance.detach()) > 0 and b.grad is not None and bool(b.grad.isfinite().all())
    assert float(b.grad.abs().sum()) > 0 and all(p.grad is None for p in model.parameters())


def test_flat_images_give_no_nan(files: tuple[Path, Path]) -> None:
    """A pixel whose features are all zero must not divide by zero, forward or backward."""
    model = LPIPS.load(*files)
    for p in model.parameters():
        p.data.neg_()
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    model(x, torch.ones(1, 3, 32, 32)).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


def test_bad_files_are_named(files: tuple[Path, Path], weights, tmp_path: Path) -> None:
    vgg, lin = files
    with pytest.raises(CheckpointError, match="none.pth: no such file"):
        LPIPS.load(vgg, tmp_path / "none.pth")
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(CheckpointError, match="torn.pth': cannot be read"):
        LPIPS.load(vgg, tmp_path / "torn.pth")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="torn.safetensors': the weights cannot be read"):
        LPIPS.load(tmp_path / "torn.safetensors", lin)
    with pytest.raises(CheckpointError, match=r"no tensor features.0.weight, .*\(26 missing\)"):
        LPIPS.load(lin, lin)
    wrong = {**weights[1], "lin0.model.1.weight": torch.zeros(1, 32, 1, 1)}
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError, match=r"lin0.model.1.weight is \(1, 32, 1, 1\), must be \(1, 64, 1, 1\)"):
        LPIPS.load(vgg, tmp_path / "wrong.safetensors")
