"""The plan of the paper's statements at its smallest, from training to the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cm3.claims.verdicts import OPEN, STATEMENTS
from cm3.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def claims(*words: str) -> int:
    return main(["eval", "claims", "--plan", str(ROOT / "recipes/paper.py"), "--size", "smallest", *words])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_smallest_plan_ends_in_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "out", tmp_path / "docs/claims.md"
    assert claims("--out", str(out), "--page", str(page)) == 0
    made, text = json.loads((out / "claims.json").read_text()), page.read_text()
    assert [s["title"] for s in made["statements"]] == [s.title for s in STATEMENTS]
    for number, statement in enumerate(made["statements"], 1):
        assert statement["verdict"] == OPEN, "two cases tell nothing"
        assert f"## {number}. {statement['title']}" in text and statement["rule"] in text
        assert (page.parent / f"images/claims/{number}.png").read_bytes().startswith(b"\x89PNG")
    assert made["processor_seconds"] > 0 and made["world"] == "scenes"
    # Once more: nothing is done, and the same page is written.
    capsys.readouterr()
    assert claims("--out", str(out), "--page", str(page)) == 0
    assert "left" not in capsys.readouterr().out and page.read_text() == text
    page.unlink()
    assert claims("--out", str(out), "--page", str(page), "--rewrite") == 0 and page.read_text() == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "fulll"), "--size fulll: must be one of full, reduced, smallest. Did you mean 'full'?"),
        (("--only", "8"), "--only 8: must be a statement's number, 1 to 7"),
        (("--rewrite",), "claims.json"),
        (("--page", "mine.md"), "page 'mine.md': is there, and is none that cm3 eval claims wrote"),
    ],
)
def test_bad_input_is_refused(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.md").write_text("# My own page\n")
    assert claims(*words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert Path("mine.md").read_text() == "# My own page\n" and not Path("runs").exists()


def test_the_steps_are_listed_and_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert claims("--list", "--only", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["shipped-0", "shipped-1", "shipped-2", "found", "4"]
    assert not list(tmp_path.iterdir())
