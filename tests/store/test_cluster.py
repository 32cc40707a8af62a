"""A real Ray cluster of this machine makes the very store that one process makes."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import store_parts
from store_parts import contents

from cm3.data.cluster import map_units
from cm3.data.prepare import prepare
from cm3.data.prepare_unit import Work
from cm3.errors import ConfigError, DataError

# Each of Ray's processes imports torch and Ray.
pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    """A cluster of two cores, kept for the whole module; this process has joined it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray = pytest.importorskip("ray")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cluster")
    store_parts.tokenizers(root / "model")
    photos = store_parts.photos(root / "photos", 20)
    (photos / "007.png").write_bytes(b"no picture")
    return root


@pytest.mark.slow
def test_a_cluster_goes_on_with_what_was_begun_here_and_makes_the_same_bytes(ray: object, parts: Path) -> None:
    told: list[int] = []
    sources, model = [f"{parts}/photos"], parts / "model"
    prepare(sources, parts / "alone", model, unit=4)
    shutil.copytree(parts / "alone", parts / "out")
    (parts / "out" / "manifest.json").unlink()
    for number in (1, 3, 4):
        (parts / "out" / f"shards/{number:05d}.json").unlink()
        (parts / "out" / f"shards/{number:05d}.safetensors").unlink()
    report = prepare(
        sources, parts / "out", model, unit=4, cluster="local", progress=lambda done, total, label: told.append(done)
    )
    assert contents(parts / "out") == contents(parts / "alone")
    assert report.documents == 19 and sorted(told) == [8, 12, 16, 20]


@pytest.mark.slow
def test_what_goes_wrong_there_is_told_here(ray: object, parts: Path) -> None:
    work = Work(str(parts / "alone"), str(parts / "no-model"), None, 32, None, "cpu")
    with pytest.raises(DataError, match="tokenizers .*no-model': config.json cannot be read"):
        list(map_units("local", work, [0]))


def test_without_ray_the_extra_is_named(parts: Path) -> None:
    work = Work(str(parts), str(parts), None, 32, None, "cpu")
    with (
        mock.patch.dict(sys.modules, {"ray": None}),
        pytest.raises(ConfigError, match=r"pip install 'ray\[data\]'"),
    ):
        list(map_units("local", work, [0]))
