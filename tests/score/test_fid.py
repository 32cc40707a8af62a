"""Sets of pictures against each other: the same figures however they come in, and all that a reader has to know."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from cm3.errors import ConfigError, DataError
from cm3.score.features import NetworkFeatures, Preparation
from cm3.score.fid import Sample, sample, score_fid

WIDTH = 6


def features(name: str = "drawn:1", **prepare: Any) -> NetworkFeatures:
    """A network of one convolution over the whole of a square of 8 x 8."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, WIDTH, 8)
    return NetworkFeatures(name, network, lambda x: network(x).flatten(1), 8, WIDTH, Preparation(**prepare))


def pictures(n: int, seed: int, bright: int = 0) -> Iterator[tuple[str, PIL.Image.Image]]:
    rng = np.random.default_rng(seed)
    for i in range(n):
        yield f"{i}.png", PIL.Image.fromarray((rng.integers(0, 200, (12, 9, 3)) + bright).astype(np.uint8))


@pytest.fixture(scope="module")
def sides() -> tuple[Sample, Sample]:
    return sample(pictures(90, 1, 10), features(), "made"), sample(pictures(70, 2), features(), "true")


def test_batches_change_no_figure(sides: tuple[Sample, Sample]) -> None:
    whole = score_fid(*sides)
    assert set(whole.figures) == {"fid", "fid_bias", "precision", "recall", "mind"} and whole.n == 90
    for batch in (1, 7, 64):
        again = [sample(pictures(n, s, b), features(), "x", batch=batch) for n, s, b in ((90, 1, 10), (70, 2, 0))]
        assert score_fid(*again).figures == pytest.approx(dict(whole.figures), rel=1e-4), batch
    lean = [sample(pictures(n, s, b), features(), "x", keep=False) for n, s, b in ((90, 1, 10), (70, 2, 0))]
    assert score_fid(*lean).figures == {name: whole.figures[name] for name in ("fid", "fid_bias")}


def test_items_are_what_the_figures_are_means_of(sides: tuple[Sample, Sample]) -> None:
    result = score_fid(*sides)
    assert set(result.items) == {"precision", "recall"}
    assert len(result.items["precision"]) == 90 and len(result.items["recall"]) == 70
    for name, values in result.items.items():
        assert result.figures[name] == pytest.approx(np.mean(list(values.values())))


def test_settings_name_all_that_decides(sides: tuple[Sample, Sample]) -> None:
    settings = score_fid(*sides, k=2, directions=50, seed=3).settings
    assert settings.items() >= {
        "features": "drawn:1", "crop": "none", "size": None, "filter": "bilinear", "antialias": False,
        "quantise": False, "colours": "stored", "square": 8, "k": 2, "mind_directions": 50, "mind_seed": 3,
        "mind_pictures": 70,
        "predictions_pictures": 90, "reference_pictures": 70, "reference": "pictures",
        "fid_bias": "fid of halves of both sides, less fid",
    }.items()  # fmt: skip


def test_the_bias_is_most_of_the_fid_between_equals() -> None:
    """Two draws of one kind of picture: all of their FID is bias."""
    left = []
    for seed in range(8):
        made, true = (sample(pictures(60, 2 * seed + i), features(), "x", keep=False) for i in (0, 1))
        figures = score_fid(made, true).figures
        assert figures["fid"] > 0 and figures["fid_bias"] > 0
        left.append((figures["fid"] - figures["fid_bias"]) / figures["fid"])
    assert abs(np.mean(left)) < 0.5


def test_few_pictures_are_said(sides: tuple[Sample, Sample]) -> None:
    told = score_fid(*sides).warnings
    assert any(
        "fid of 90 predictions and 70 reference: 10000 make a stable one" in one and "without" in one for one in told
    )
    assert any("mind of 70 pictures" in one for one in told) and not any("dimensions" in one for one in told)
    few = sample(pictures(WIDTH, 4), features(), "few")
    told = score_fid(few, sides[1]).warnings
    assert any(f"fid of {WIDTH} predictions in {WIDTH} dimensions" in one and "singular" in one for one in told)
    many = [replace(s, gaussian=replace(s.gaussian, n=20_000)) for s in sides]
    assert not any("stable" in one for one in score_fid(*many, measures=["fid"]).warnings)


def test_pictures_that_show_the_same_are_said(sides: tuple[Sample, Sample]) -> None:
    assert not any("show" in one for one in score_fid(*sides).warnings)
    twice = [*pictures(20, 5), *((f"again/{id}", p) for id, p in pictures(3, 5))]
    told = score_fid(sample(twice, features(), "twice"), sides[1]).warnings
    assert "predictions: 3 of 23 pictures show what another shows (first: 'again/0.png' and '0.png')" in told
    told = score_fid(sample(pictures(30, 2), features(), "copies"), sides[1]).warnings
    assert "30 predictions show what a picture of the reference shows (first: '0.png' and '0.png')" in told


def test_statistics_stand_for_pictures(sides: tuple[Sample, Sample], tmp_path: Path) -> None:
    made, true = sides
    true.gaussian.save(tmp_path / "true.npz")
    result = score_fid(made, Sample.load(tmp_path / "true.npz"))
    assert set(result.figures) == {"fid", "fid_bias"}
    assert result.figures["fid"] == pytest.approx(score_fid(made, true).figures["fid"], rel=1e-9)
    assert result.settings["fid_bias"] == "fid of halves of one side, less fid"
    assert not any("does not say" in one for one in result.warnings)
    made.gaussian.save(tmp_path / "made.npz")
    both = score_fid(*(Sample.load(tmp_path / f"{name}.npz") for name in ("made", "true")))
    assert both.figures == {"fid": pytest.approx(result.figures["fid"], rel=1e-9)} and both.n == 90
    with pytest.raises(DataError, match=r"true.npz': keeps no vectors, so mind cannot be had; give the pictures"):
        score_fid(made, Sample.load(tmp_path / "true.npz"), measures=["mind"])


def test_statistics_of_other_features_are_refused(sides: tuple[Sample, Sample], tmp_path: Path) -> None:
    made, true = sides
    np.savez(tmp_path / "theirs.npz", mu=true.gaussian.mu, sigma=true.gaussian.sigma)
    told = score_fid(made, Sample.load(tmp_path / "theirs.npz")).warnings
    assert any("theirs.npz': does not say of which features it is" in one for one in told)
    np.savez(tmp_path / "wide.npz", mu=np.zeros(9), sigma=np.eye(9))
    with pytest.raises(
        DataError, match="features differ: made is of drawn:1, 6 dimensions and .*wide.npz' is of unnamed"
    ):
        score_fid(made, Sample.load(tmp_path / "wide.npz"))
    with pytest.raises(DataError, match="drawn:1, 6 dimensions and other is of drawn:2, 6 dimensions"):
        score_fid(made, sample(pictures(9, 3), features("drawn:2"), "other"))
    smooth = sample(pictures(70, 2), features(antialias=True), "smooth")
    told = score_fid(made, smooth).warnings
    assert any("prepared differently (antialias False and True)" in one for one in told)


def test_bad_sets_are_refused(sides: tuple[Sample, Sample]) -> None:
    with pytest.raises(DataError, match="none: holds no picture"):
        sample([], features(), "none")
    with pytest.raises(DataError, match="one: statistics of 1 pictures"):
        sample(pictures(1, 0), features(), "one")
    with pytest.raises(DataError, match="twice: picture '0.png' comes twice"):
        sample([*pictures(2, 0), *pictures(1, 0)], features(), "twice")
    with pytest.raises(DataError, match="torn: picture 'b.png': image of mode RGB: cannot be read"):
        sample([*pictures(2, 0), ("b.png", PIL.Image.open(torn()))], features(), "torn")
    with pytest.raises(ConfigError, match="measure 'fit': must be one of fid, .* Did you mean 'fid'?"):
        score_fid(*sides, measures=["fit"])
    with pytest.raises(ConfigError, match="batch=0"):
        sample(pictures(2, 0), features(), "x", batch=0)


def torn() -> Any:
    """The file of a picture that is cut short."""

    whole = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(whole, "PNG")
    return io.BytesIO(whole.getvalue()[:900])
