"""The wheel: everything that the package needs is inside, and it works from any folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import cm3
from cm3.cli.recipe import find, shipped

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy of what it is made of."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("cm3", "recipes"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = (tree / "dist").glob("*.whl")
    return made


def test_everything_is_inside_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if not name.endswith("/")}
    inside = {n for n in names if n.startswith("cm3/")}
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "cm3").rglob("*") if p.is_file()}
    sources |= {f"cm3/recipes/{p.name}" for p in (ROOT / "recipes").glob("*.py")}
    assert inside == {n for n in sources if "__pycache__" not in n}
    assert {"cm3/py.typed", "cm3/bundles/scenes/config.json", "cm3/recipes/scenes.py"} <= inside
    about = f"cm3leon-{cm3.__version__}.dist-info"
    assert all(n.startswith(f"{about}/") for n in names - inside) and f"{about}/licenses/LICENSE" in names


def test_it_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        told = Parser().parsestr(opened.read(f"cm3leon-{cm3.__version__}.dist-info/METADATA").decode())
    assert told["Name"] == "cm3leon" and told["Version"] == cm3.__version__
    assert told["Author"] == "The CM3Leon authors" and told["License-Expression"] == "MIT"
    assert "@" not in told["Author"] and told["Author-email"] is None


@pytest.mark.slow
def test_it_works_unpacked_anywhere(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path / "site")
    (tmp_path / "else").mkdir()
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    code = f"""
import cm3
from cm3.cli.main import main
assert cm3.__file__.startswith({str(tmp_path / "site")!r}), cm3.__file__
assert main(["--version"]) == 0
for spec in ("scenes:pretrain", "scene_tasks:instruct", "sticker_tasks:instruct", "photos:instruct", "photos:pretrain"):
    assert main(["train", spec, "--help"]) == 0, spec
assert len(cm3.load().memory) > 0
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "else", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"cm3 {cm3.__version__}\n" in done.stdout and "usage: cm3 train scenes:pretrain" in done.stdout


def test_short_names_are_those_of_the_files() -> None:
    assert set(shipped()) == {p.stem for p in (ROOT / "recipes").glob("*.py")}
    assert find("scenes:pretrain")() == find(f"{ROOT}/recipes/scenes.py:pretrain")()


def test_a_folder_of_ones_own_recipes_may_share(tmp_path: Path) -> None:
    for place, steps in (("a", 3), ("b", 4)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "base.py").write_text(f"STEPS = {steps}\n")
        (tmp_path / place / "mine.py").write_text("from .base import STEPS\n\ndef run():\n    return STEPS\n")
    assert [find(f"{tmp_path}/{place}/mine.py:run")() for place in "aba"] == [3, 4, 3]


def test_the_package_lists_its_names() -> None:
    assert {*cm3.__all__, "__version__"} <= set(dir(cm3))
    assert all(getattr(cm3, name) is not None for name in dir(cm3))
    with pytest.raises(AttributeError, match="no attribute 'Modle'"):
        cm3.Modle  # noqa: B018


def test_what_messages_say_to_install_is_what_the_extras_name() -> None:
    extras = PROJECT["optional-dependencies"]
    known = {re.split(r"[<>=]", one)[0] for extra in extras.values() for one in extra}
    known |= {f"cm3leon[{extra}]" for extra in extras}
    told: list[str] = []
    for path in (ROOT / "cm3").rglob("*.py"):
        for found in re.findall(r"pip install ((?:'[^']+'|[\w-]+)(?: (?:'[^']+'|[\w-]+))*)", path.read_text("utf-8")):
            told += [name.strip("'") for name in found.split()]
    assert {"faiss-cpu", "transformers", "ray[client]"} <= set(told) <= known
