"""The page of a result: the same for the same predictions, read back as it was written, and refused when altered."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cm3.errors import ConfigError, DataError
from cm3.files import sha256
from cm3.score.result import Result
from cm3.score.result_file import check_result, digest, manifest, read_result, write_result

OWN = {"hardware", "seconds", "date"}
"""Fields that two runs may differ in."""


def a_result(count: int = 40) -> Result:
    """A figure that is a mean of items, and one that is none."""
    values = {str(id): (id * 7 % 11) / 10 for id in range(count)}
    figures = {"CIDEr": math.fsum(values.values()) / count, "BLEU-4": 0.25}
    return Result(figures, count, {"tokenizer": "ptb", "sizes": (1, 2)}, ("a warning",), {"CIDEr": values})


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "refs.json").write_text('[{"image_id": 1}]')
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", "a.png", "deep/c.png"):
        (folder / name).write_bytes(name.encode())
    return {"references": tmp_path / "refs.json", "predictions": folder}


def a_page(files: dict[str, Path], result: Result | None = None, **more: Any) -> dict[str, Any]:
    sources = {"captions": files["references"]}, {"pictures": files["predictions"]}
    return manifest(result or a_result(), "captions", 1, *sources, 1.5, **more)


def test_a_page_has_all_of_the_result_and_is_read_back(files: dict[str, Path], tmp_path: Path) -> None:
    page = a_page(files, seed=3, sampling={"top_p": 0.9})
    write_result(tmp_path / "out" / "r.json", page)
    read = read_result(tmp_path / "out" / "r.json")
    result = a_result()
    assert (read.figures, read.n, read.items) == (result.figures, result.n, result.items)
    assert read.settings == {"tokenizer": "ptb", "sizes": [1, 2]} and read.warnings == ("a warning",)
    assert read.made == {"seed": 3, "sampling": {"top_p": 0.9}} and (read.suite, read.version) == ("captions", 1)
    assert read.intervals["BLEU-4"] is None
    low, high = read.intervals["CIDEr"] or (1, 0)
    assert low < result.figures["CIDEr"] < high
    assert read.references["captions"].sha256 == sha256(files["references"])
    assert read.predictions["pictures"].files == 3 and read.predictions["pictures"].path == str(files["predictions"])
    assert {"python", "cm3", "torch", "numpy"} <= read.versions.keys()
    assert read.hardware["processor"] and read.hardware["threads"] >= 1 and read.seconds == 1.5
    assert json.loads(json.dumps(page)) == page


def test_two_runs_give_the_same_page(files: dict[str, Path]) -> None:
    whole = a_result()
    turned = Result(
        whole.figures, whole.n, whole.settings, whole.warnings,
        {name: dict(list(values.items())[::-1]) for name, values in whole.items.items()},
    )  # fmt: skip
    one, two = a_page(files, whole), a_page(files, turned)
    assert {k: v for k, v in one.items() if k not in OWN} == {k: v for k, v in two.items() if k not in OWN}


def test_numbers_of_numpy_and_ids_that_are_numbers_become_plain(files: dict[str, Path]) -> None:
    values: dict[Any, Any] = {id: np.float32(id / 3) for id in range(50)}
    mean: Any = np.mean(list(values.values()), dtype=np.float32)
    page = a_page(files, Result({"score": mean}, 50, items={"score": values}))
    assert type(page["figures"]["score"]) is float and page["items"]["score"].keys() == set(map(str, range(50)))


def test_few_items_are_told_and_one_has_no_interval(files: dict[str, Path]) -> None:
    few = a_page(files, a_result(7))
    assert few["intervals"]["CIDEr"] and any("too narrow: CIDEr" in line for line in few["warnings"])
    assert a_page(files, a_result(1))["intervals"]["CIDEr"] is None


def test_the_sum_of_a_folder_is_of_names_and_contents(files: dict[str, Path], tmp_path: Path) -> None:
    folder = files["predictions"]
    first = digest(folder)
    (folder / ".DS_Store").write_text("of the system")
    (folder / ".parts").mkdir()
    (folder / ".parts" / "a.png").write_text("half")
    assert digest(folder) == first
    os.rename(folder / "a.png", folder / "z.png")
    renamed = digest(folder)
    assert renamed["sha256"] != first["sha256"] and renamed["bytes"] == first["bytes"]
    os.rename(folder / "z.png", folder / "a.png")
    (folder / "a.png").write_bytes(b"A.png")
    assert digest(folder)["sha256"] != first["sha256"]
    (folder / "a.png").write_bytes(b"a.png")
    assert digest(folder) == first
    (tmp_path / "link").symlink_to(folder)
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe")
    assert digest(tmp_path / "link") == digest(folder) == first
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "d.png").write_bytes(b"d")
    (folder / "more").symlink_to(tmp_path / "more")
    assert digest(folder)["files"] == 4


def test_a_sum_is_taken_in_the_place_of_a_path(files: dict[str, Path]) -> None:
    page = manifest(a_result(), "captions", 1, {"captions": "0" * 64}, {}, 1)
    assert check_result(page, "page").references["captions"].path is None


@pytest.mark.parametrize("what", ["missing", "empty", "pipe"])
def test_sources_that_cannot_be_summed_are_refused(what: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    told = {"missing": "cannot be read", "empty": "has no file", "pipe": "is neither a file nor a folder"}[what]
    with pytest.raises(DataError, match=told):
        digest(tmp_path / what)


def test_what_json_has_not_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="made: must be plain values"):
        a_page(files, seed={1, 2})
    with pytest.raises(ConfigError, match="settings: must be plain values"):
        a_page(files, Result({}, 0, {"rate": math.nan}))
    with pytest.raises(DataError, match=r"figures\.FID=nan: must be a finite number"):
        a_page(files, Result({"FID": math.nan}, 3))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "cm3-store"}, "is none; give a file that a verb of `cm3 eval` wrote with --out"),
        ({"format": 2}, "is of format 2, this version reads 1"),
        ({"figures": {"CIDEr": 0.9, "BLEU-4": 0.25}}, "figures.CIDEr=0.9: must be the mean of its items"),
        ({"items": {}}, "intervals.CIDEr: is one of items, and items.CIDEr is missing"),
        ({"items": {"CIDEr": {}}}, "items.CIDEr: is empty"),
        ({"items": {"ROUGE-L": {"1": 1.0}}}, "items.ROUGE-L: is no figure"),
        ({"intervals": {}}, "intervals: must name the figures"),
        ({"intervals": {"CIDEr": [3, 1], "BLEU-4": None}}, "intervals.CIDEr=[3.0, 1.0]: must be from the lower end"),
        ({"items": {"CIDEr": {"1": 1e308, "2": 1e308}}}, "must be the mean of its items, 1e+308"),
        ({"n": "40"}, "n='40': must be a whole number"),
        ({"n": -1}, "n=-1: must be at least 0"),
        ({"references": {"captions": {"sha256": "0"}}}, "must be a sha256"),
        ({"more": 1}, "more: is no field"),
    ],
)
def test_a_page_that_is_none_or_altered_is_refused(files: dict[str, Path], change: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError) as caught:
        check_result(a_page(files) | change, "r.json")
    assert "r.json" in str(caught.value) and told in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_result(tmp_path / "none.json")
    for text in ("{", "[1]", "{}"):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(DataError, match=r"r\.json"):
            read_result(tmp_path / "r.json")


def test_versions_do_not_hang_on_what_was_loaded_before() -> None:
    code = "from cm3.score.result import Result; from cm3.score.result_file import manifest; "
    code += "one, two = (manifest(Result({'BLEU-4': 0.5}, 2), 'captions', 1, {}, {}, 1) for _ in range(2)); "
    code += "assert 'torch' in one['versions'] and one['versions'] == two['versions'], (one, two)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
