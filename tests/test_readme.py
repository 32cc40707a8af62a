"""What the README tells a newcomer to type works as it stands, only with fewer scenes to measure."""

from __future__ import annotations

import glob
import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest
from forks import python

from cm3.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in README.splitlines() if re.match("    (.venv/bin/|rm |make )", line)]
USE = [
    c
    for c in COMMANDS
    if not any(word in c for word in ("make", "cm3 serve", "runs/stickers", "PHOTOS", " train sticker"))
]
FEWER = {"--n 20": "--n 2", "--n 4": "--n 2", "--steps 5": "--steps 1 --windows 1"}
"""What is made smaller here: as many pictures, scenes and steps show the same."""


def told(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def do(command: str, capfd: pytest.CaptureFixture[str]) -> str:
    """Carry a command out as a shell would, the package's own in this process; returns its stdout."""
    for more, fewer in FEWER.items():
        command = command.replace(more, fewer)
    words = [w for word in shlex.split(command) for w in (sorted(glob.glob(word)) or [word] if "*" in word else [word])]
    capfd.readouterr()
    if words[0] == ".venv/bin/cm3":
        code = main(words[1:])
        out, err = capfd.readouterr()
        assert code == 0, f"{command}\n{out}\n{err}"
        assert " does not know " not in err and " was shown no such picture" not in err, f"{command}\n{err}"
        return out
    if words[0].endswith("python"):
        return told(python(*words[1:]))
    return told(subprocess.run(words, capture_output=True, text=True))


@pytest.mark.slow
@pytest.mark.timeout(600)  # eighteen commands, twice
def test_its_commands_run_one_after_another_and_then_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [c.split()[1] for c in USE] == [
        *("generate", "describe", "infill", "infill", "generate", "eval"),
        *("edit", "describe", "generate"),
        *("-rf", "docs/examples/stickers.py", "index", "index", "generate"),
        *("data", "prepare", "train"),
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found: list[set[str]] = []
    for _ in range(2):
        for command in USE:
            told = do(command, capfd)
            if "index search" in command:
                assert "sheet-00.png" in told.splitlines()[0], told
        found.append({p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")})
    assert found[0] == found[1] and len([name for name in found[0] if name.startswith("out/")]) == 2
    assert (tmp_path / "runs/try/bundle/config.json").is_file()
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    for path in tmp_path.iterdir():
        assert path.name == "docs" or {f"/{path.name}/", f"/{path.name}"} & set(ignored), f"{path.name}: not ignored"


def test_it_says_what_a_command_costs() -> None:
    for command in COMMANDS:
        if " train " in command or "make" in command:
            assert re.search("hour|minute", README.split(command)[0][-900:] + README.split(command)[1][:500]), command


def test_its_python_runs(tmp_path: Path) -> None:
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "cm3.load" in b]
    said = told(python("-c", block, cwd=tmp_path)).splitlines()
    assert len(said) == 3 and said[1].startswith("a large ") and said[1].endswith(" at the top left, on a sky ground")
    assert "does not know 'yak', 'sofa'; it knows " in said[2]


def test_the_recipes_it_names_are_there() -> None:
    from cm3.cli.recipe import find

    named = [c.split()[2] for c in COMMANDS if " train " in c]
    assert len(named) > 10
    for spec in named:
        find(spec)


@pytest.mark.parametrize("script", sorted((ROOT / "docs").glob("*/*.py")), ids=lambda path: path.name)
def test_the_scripts_of_its_pictures_load(script: Path) -> None:
    """They are run by hand and seldom: what they import may have moved."""
    if script.name == "playground.py":
        pytest.importorskip("playwright")
    assert callable(runpy.run_path(str(script), run_name="loaded")["main"])
