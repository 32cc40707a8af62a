"""Documents of readers as data of a run: what is held out of several sources, and what a bundle takes from a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest

from cm3.data.documents import split
from cm3.data.kinds import DocumentData
from cm3.errors import ConfigError
from cm3.model.decoder import DecoderConfig
from cm3.read.find import open_reader
from cm3.read.random_access import Numbered
from cm3.retrieval.pairs import PairsConfig
from cm3.runs.clip_run import ClipRun
from cm3.runs.pretrain_run import PretrainRun


def folder(at: Path, shades: range) -> str:
    at.mkdir()
    for i in shades:
        PIL.Image.new("RGB", (8, 8), (i, 2 * i, 255 - i)).save(at / f"{i}.png")
        (at / f"{i}.txt").write_text(f"shade {i}")
    return f"folder:{at}"


@pytest.mark.parametrize("share", [1e-9, 0.2, 0.5])
def test_a_picture_of_two_sources_is_on_one_side(tmp_path: Path, share: float) -> None:
    sources = [folder(tmp_path / "one", range(1)), folder(tmp_path / "more", range(9))]
    parts = split([Numbered(open_reader(source)) for source in sources], share)
    trained, held = ({part[i].text for part in side for i in range(len(part))} for side in zip(*parts, strict=True))
    assert trained and held and trained.isdisjoint(held) and len(trained | held) == 9
    with pytest.raises(ConfigError, match=r"data.holdout=0.2: .*one': has one picture; give more, or 0"):
        split([Numbered(open_reader(sources[0]))], 0.2)
    with pytest.raises(ConfigError, match="data.holdout=0.7: is a share"):
        split([Numbered(open_reader(sources[1]))], 0.7)


def test_no_source_is_refused_by_each_use() -> None:
    data = DocumentData(())
    for use in (lambda: data.pictures(8, 2), lambda: data.pairs(8, 2), lambda: list(data.texts())):
        with pytest.raises(ConfigError, match="data.sources: there are none"):
            use()


def test_one_pair_held_out_measures_nothing(tmp_path: Path) -> None:
    data = DocumentData((folder(tmp_path / "some", range(6)),), holdout=1e-9)
    run = ClipRun(out=str(tmp_path / "run"), model=PairsConfig(image_size=32), steps=1, batch=4, data=data)
    with pytest.raises(ConfigError, match="validate_every=1: one pair is held out.*larger --data.holdout"):
        replace(run, validate_every=1).run(progress=False)
    assert not (tmp_path / "run").exists()


def test_a_bundle_takes_the_place_of_a_recipes_model() -> None:
    recipe = PretrainRun(out="out", model=DecoderConfig(layers=3), image_size=64)
    given = replace(recipe, init="bundle").given_init(recipe)
    assert (given.model, given.image_size) == (DecoderConfig(), 0)
    said = replace(recipe, init="bundle", model=DecoderConfig(layers=4), image_size=32)
    assert said.given_init(recipe) == said and recipe.given_init(recipe) == recipe
