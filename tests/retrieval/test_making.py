"""What a kill leaves of a build or an `add`, and how it goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing import Hashing, texts

from cm3.document import Document, Unreadable
from cm3.errors import CheckpointError, DataError
from cm3.retrieval.memory import Memory


class Fails(Hashing):
    """Stops after so many texts, as a kill would."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def texts(self, words: Any) -> np.ndarray:
        if self.seen + len(words) > self.after:
            raise KeyboardInterrupt
        return super().texts(words)


def test_a_build_goes_on_where_it_was(tmp_path: Path) -> None:
    source: list[Document | Unreadable] = [*texts(50), Unreadable("damaged", "cut short"), *texts(50, 50)]
    with pytest.raises(KeyboardInterrupt):
        Memory.build(tmp_path / "bank", source, Fails(65), batch=10)
    assert [p.name for p in tmp_path.iterdir()] == [".bank.partial"]
    with pytest.raises(CheckpointError, match="no such folder; `cm3 index build` makes one"):
        Memory.open(tmp_path / "bank")
    encoder = Hashing()
    told: list[tuple[int, int, str]] = []
    made = Memory.build(tmp_path / "bank", source, encoder, batch=10, progress=lambda *now: told.append(now))
    assert encoder.seen < 60, "what was finished is not embedded again"
    assert told[0] == (70, 101, "embedding") and told[-1] == (101, 101, "embedding")
    whole = Memory.build(tmp_path / "whole", source, Hashing())
    assert list(made) == list(whole) and np.array_equal(made.vectors(list(made)), whole.vectors(list(made)))
    assert made.report == whole.report and made.report is not None
    assert made.report.skipped == (Unreadable("damaged", "cut short"),)


def test_an_add_goes_on_where_it_was(tmp_path: Path) -> None:
    bank = Memory.build(tmp_path / "bank", texts(5, 100), Hashing())
    with pytest.raises(KeyboardInterrupt):
        bank.add(texts(50), Fails(25), batch=10)
    assert len(Memory.open(bank.folder)) == 5, "all or none"
    encoder = Hashing()
    bank.add(texts(50), encoder, batch=10)
    assert encoder.seen == 30 and len(bank) == 55


def test_another_source_is_not_taken_for_the_one_that_was_killed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Memory.build(tmp_path / "bank", texts(50), Fails(25), batch=10)
    for other, told in (
        (texts(50, 1), "item 0 of its source was 't0', now it is 't1'"),
        (texts(15), "item 15 of its source was 't15', now it is not there"),
        ([*texts(9), Document.of("new words", id="t9", source="texts"), *texts(40, 10)], "item 9 .* has other text"),
    ):
        with pytest.raises(DataError, match=f"{told}.* or delete that folder to start again"):
            Memory.build(tmp_path / "bank", other, Hashing(), batch=10)
    with pytest.raises(DataError, match="was begun with encoder 'hashing:1', not 'hashing:2'; give the same to go on"):
        Memory.build(tmp_path / "bank", texts(50), Hashing(name="hashing:2"), batch=10)
    assert len(Memory.build(tmp_path / "bank", texts(50), Hashing(), batch=10)) == 50


def _build_slowly(folder: Path, reached: Any) -> None:
    def slow() -> Iterator[Document]:
        for i, document in enumerate(texts(1000)):
            if i == 300:
                reached.set()
                signal.pause()
            yield document

    Memory.build(folder, slow(), Hashing(), batch=20)


def test_a_killed_process_leaves_what_can_be_gone_on_with(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    reached = context.Event()
    process = context.Process(target=_build_slowly, args=(tmp_path / "bank", reached))
    process.start()
    assert reached.wait(60)
    with pytest.raises(DataError, match="another process is writing"):
        Memory.build(tmp_path / "bank", texts(1000), Hashing(), batch=20)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    encoder = Hashing()
    made = Memory.build(tmp_path / "bank", texts(1000), encoder, batch=20)
    assert len(made) == 1000 and encoder.seen <= 720
