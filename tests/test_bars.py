"""Bars are drawn on a terminal, and leave no trace in a file."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from cm3.bars import bar

ROOT = Path(__file__).resolve().parents[1]


class Terminal(io.StringIO):
    """What says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "wanted", "drawn"), [(Terminal, True, True), (Terminal, False, False),
                                                         (io.StringIO, True, False)])  # fmt: skip
def test_a_bar_is_drawn_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], wanted: bool, drawn: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    with bar("work", total=3, wanted=wanted) as made:
        for _ in range(3):
            made.update()
            made.set_postfix(loss="1")
    assert isinstance(sys.stderr, io.StringIO)
    assert ("\r" in sys.stderr.getvalue()) == drawn and ("work" in sys.stderr.getvalue()) == drawn


def test_there_is_one_place_for_bars() -> None:
    found = [p for p in (ROOT / "cm3").rglob("*.py") if re.search(r"^\s*(from|import) tqdm", p.read_text(), re.M)]
    assert [p.name for p in found] == ["bars.py"]
