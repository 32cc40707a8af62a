"""FID's Inception gives pytorch-fid's features, reads its file, and says where to get it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import published_inception
import pytest
import torch

from cm3.errors import CheckpointError
from cm3.score.features import load_features
from cm3.score.inception import Inception


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_inception.write(tmp_path_factory.mktemp("inception") / "drawn.pth")


def test_gives_the_features_of_pytorch_fid(file: Path) -> None:
    """Figures of pytorch-fid 0.3.0 with torchvision 0.29.1, given the same file and the same picture."""
    features = load_features(file)
    [row] = features([PIL.Image.fromarray(published_inception.picture())]).astype(np.float64)
    assert row.shape == (2048,) == (features.width,)
    found = [row.mean(), row.std(), *row[[0, 321, 700, 1500, 1999]]]
    told = [0.472145, 0.619121, 0.067618, 0.782219, 0.925992, 1.5556, 0.0776802]
    np.testing.assert_allclose(found, told, rtol=1e-3)


def test_a_file_that_is_not_the_published_one_is_told(file: Path) -> None:
    features = load_features(file)
    assert features.name.startswith("inception:") and features.settings["features"] == features.name
    [told] = features.warnings
    assert "which is not the published one" in told


def test_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        network = Inception()
    # torchvision's Inception has 27,161,264: less 3,326,696 of its second classifier and 2,049,000 of its first
    assert sum(p.numel() for p in network.parameters()) == 21_785_568


def test_borders_are_averages_of_what_is_there_and_the_last_block_takes_the_maximum() -> None:
    with torch.device("meta"):
        network = Inception()
    for name, width in (("Mixed_5b", 192), ("Mixed_6b", 768), ("Mixed_7b", 1280), ("Mixed_7c", 2048)):
        block = network.get_submodule(name).to_empty(device="cpu")  # what is pooled does not depend on its weights
        seen = []
        block.get_submodule("branch_pool").register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        x = torch.zeros(1, width, 3, 3)
        x[0, 0, 1, 1] = 36.0
        block(torch.ones(1, width, 5, 5))
        block(x)
        assert bool((seen[0] == 1).all()), "no padding is counted"
        of_a_peak = torch.tensor([[9.0, 6, 9], [6, 4, 6], [9, 6, 9]])  # 36 of 4, 6 or 9 pixels
        torch.testing.assert_close(seen[1][0, 0], torch.full((3, 3), 36.0) if name == "Mixed_7c" else of_a_peak)


def test_bad_files_are_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none.pth': no such file; .* published at https://\S+6726825d.pth$"):
        load_features(tmp_path / "none.pth")
    (tmp_path / "torn.pth").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="torn.pth': cannot be read"):
        load_features(tmp_path / "torn.pth")
    torch.save({"fc.weight": Path}, tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("{}")
    for name in ("code.pth", "text.pth"):
        with pytest.raises(
            CheckpointError, match=f"{name}': cannot be read \\(no file of tensors alone\\); restore them$"
        ):
            load_features(tmp_path / name)
    torch.save({"fc.weight": torch.zeros(1008, 2048), "epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="'epoch' is no tensor"):
        load_features(tmp_path / "other.pth")
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, tmp_path / "few.pth")
    with pytest.raises(CheckpointError, match=r"no weight 'Conv2d_1a_3x3.bn.bias' \(470 missing\)"):
        load_features(tmp_path / "few.pth")
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Inception().state_dict().items()}
    weights = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}  # a number each, in the file too
    for change, told in (
        ({"AuxLogits.fc.weight": torch.zeros(2)}, "weight 'AuxLogits.fc.weight' is not of FID's Inception"),
        (
            {"fc.weight": torch.zeros(1000, 2048)},
            r"'fc.weight' is torch.float32 \(1000, 2048\), must be of floats \(1008",
        ),
        (
            {"Conv2d_1a_3x3.bn.bias": torch.full((32,), torch.nan)},
            "Conv2d_1a_3x3.bn.bias has values that are not finite",
        ),
    ):
        torch.save(weights | change, tmp_path / "changed.pth")
        with pytest.raises(CheckpointError, match=told):
            load_features(tmp_path / "changed.pth")
