"""What the README tells a newcomer to type works as it stands, only with fewer scenes to measure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    .venv/bin/cm3 ")]
USE = [c for c in COMMANDS if " train " not in c and "runs/" not in c]


def run(command: list[str] | str, folder: Path) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, shell=isinstance(command, str))
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(400)  # sixteen processes
def test_its_commands_run_one_after_another(tmp_path: Path) -> None:
    assert [c.split()[1] for c in USE] == [
        *("generate", "describe", "infill", "infill", "generate", "eval"),
        *("edit", "describe", "generate"),
        *("index", "index", "generate"),
        *("data", "prepare"),
    ]
    for command in USE:
        run(command.replace(".venv/bin/cm3", f"{sys.executable} -m cm3").replace("--n 100", "--n 2"), tmp_path)
    assert len(list((tmp_path / "out").glob("*.png"))) == 6
    (trained,) = [c for c in COMMANDS if "--data.stores store" in c]
    trained = trained.replace(".venv/bin/cm3", f"{sys.executable} -m cm3").replace("recipes/", f"{ROOT}/recipes/")
    run(f"{trained} --steps 1 --windows 1 --out trained", tmp_path)
    assert (tmp_path / "trained/bundle/config.json").is_file()


def test_its_python_runs(tmp_path: Path) -> None:
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "cm3.load" in b]
    said = run([sys.executable, "-c", block], tmp_path).splitlines()
    assert (
        len(said) == 2 and said[1].startswith("a large ") and said[1].endswith(" at the top left on a grey background")
    )


def test_the_recipes_it_names_are_there() -> None:
    from cm3.cli.recipe import find

    named = [c.split()[2] for c in COMMANDS if " train " in c]
    assert named
    for spec in named:
        find(f"{ROOT}/{spec}")
