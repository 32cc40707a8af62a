"""What a kill leaves of a build or an `add`, and how it goes on."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hashing import Hashing, texts
from store_parts import contents

from cm3.document import Document, Image, Unreadable
from cm3.errors import DataError, DiskError
from cm3.retrieval.memory import Memory


def picture(colour: str) -> PIL.Image.Image:
    return PIL.Image.new("RGB", (8, 6), colour)


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
    with pytest.raises(DataError, match="has no manifest.json; give a folder"):
        Memory.open(tmp_path / "bank")
    encoder = Hashing()
    told: list[tuple[int, int, str]] = []
    made = Memory.build(tmp_path / "bank", source, encoder, batch=10, progress=lambda *now: told.append(now))
    assert encoder.seen < 60, "what was finished is not embedded again"
    assert told[0] == (70, 101, "embedding") and told[-1] == (101, 101, "embedding")
    whole = Memory.build(tmp_path / "whole", source, Hashing(), batch=10)
    assert list(made) == list(whole) and np.array_equal(made.vectors(list(made)), whole.vectors(list(made)))
    assert contents(made.folder) == contents(whole.folder)
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


def kept_of(folder: Path, source: list[Document | Unreadable]) -> tuple[Memory, Hashing]:
    """A build of `source` after one of other documents was killed in the same place; it equals one without that."""
    with pytest.raises(KeyboardInterrupt):
        Memory.build(folder / "bank", texts(50), Fails(25), batch=10)
    encoder = Hashing()
    made = Memory.build(folder / "bank", source, encoder, batch=10)
    whole = Memory.build(folder / "whole", source, Hashing(), batch=10)
    assert contents(made.folder) == contents(whole.folder)
    assert [made[id] for id in made] == [whole[id] for id in whole] and made.report == whole.report
    assert sorted(p.name for p in folder.iterdir()) == ["bank", "whole"]
    return made, encoder


@pytest.mark.parametrize(
    ("source", "resumed"),
    [
        (texts(50, 1), 0),
        (texts(15), 10),
        ([*texts(9), Document.of("new words", id="t9", source="texts"), *texts(40, 10)], 0),
        ([*texts(9), Document.of("word9 red", id="t9", source="texts", license="MIT"), *texts(40, 10)], 0),
        ([*texts(9), Document.of("word9 red", picture("red"), id="t9", source="texts"), *texts(40, 10)], 0),
        ([*texts(5), Unreadable("t5", "cut short"), *texts(20, 6)], 0),
    ],
)
def test_another_source_keeps_only_what_is_its_own(
    tmp_path: Path, source: list[Document | Unreadable], resumed: int
) -> None:
    made, encoder = kept_of(tmp_path, source)
    assert made.report is not None and (made.report.resumed, made.report.dropped) == (resumed, True)
    assert encoder.seen + resumed == sum(isinstance(d, Document) for d in source) + len(made["t9"].images)


def test_a_picture_that_was_drawn_anew_is_not_gone_on_with(tmp_path: Path) -> None:
    def source(colour: str) -> list[Document]:
        return [Document.of(f"word{i} red", picture(colour if i == 3 else "red"), id=f"t{i}") for i in range(20)]

    with pytest.raises(KeyboardInterrupt):
        Memory.build(tmp_path / "bank", source("blue"), Fails(9), batch=2)
    made = Memory.build(tmp_path / "bank", source("green"), Hashing())
    assert made.report is not None and made.report.resumed == 2 and made["t3"].images[0] == Image(picture("green"))


def test_what_was_mended_since_is_looked_at_again(tmp_path: Path) -> None:
    broken: list[Document | Unreadable] = [*texts(5), Unreadable("cut", "cut short"), *texts(40, 5)]
    with pytest.raises(KeyboardInterrupt):
        Memory.build(tmp_path / "bank", broken, Fails(25), batch=10)
    mended = [*texts(5), Document.of("mended words", id="cut"), *texts(40, 5)]
    made = Memory.build(tmp_path / "bank", mended, Hashing())
    assert made["cut"].text == "mended words" and made.report is not None and made.report.skipped == ()


def test_other_settings_begin_anew(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Memory.build(tmp_path / "bank", texts(50), Fails(25), batch=10)
    encoder = Hashing(name="hashing:2")
    made = Memory.build(tmp_path / "bank", texts(50), encoder, batch=10)
    assert made.report is not None and (made.report.resumed, made.report.dropped) == (0, True)
    assert made.encoder_name == "hashing:2" and encoder.seen == 50


def test_a_killed_add_does_not_stand_in_the_way_of_another(tmp_path: Path) -> None:
    bank = Memory.build(tmp_path / "bank", texts(5, 100), Hashing())
    with pytest.raises(KeyboardInterrupt):
        bank.add(texts(50), Fails(25), batch=10)
    report = bank.add(texts(7, 200), Hashing())
    assert (report.added, report.resumed, report.dropped) == (7, 0, True)
    assert list(Memory.open(bank.folder)) == [d.id for d in [*texts(5, 100), *texts(7, 200)]]


@pytest.mark.parametrize("name", ["x" * 300, "file/bank", "/proc/bank"])
def test_a_place_where_no_bank_can_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="choose another place") as told:
        Memory.build(tmp_path / name, texts(1), Hashing())
    assert "\n" not in str(told.value) and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_is_refused_leaves_nothing(tmp_path: Path) -> None:
    class Nan(Hashing):
        def texts(self, words: Any) -> np.ndarray:
            return super().texts(words) * np.nan

    twice = [*texts(30), *texts(3)]
    with pytest.raises(DataError, match="ids that come twice"):
        Memory.build(tmp_path / "new" / "deep" / "bank", twice, Hashing(), batch=10)
    assert list(tmp_path.iterdir()) == []
    bank = Memory.build(tmp_path / "bank", texts(5, 100), Hashing())

    def files() -> list[str]:
        return sorted(str(p) for p in bank.folder.rglob("*"))

    before = files()
    for source, encoder, told in (
        (twice, Hashing(), "ids that come twice: 't0', 't1', 't2'"),
        (texts(3, 100), Hashing(), "ids that come twice: 't100', 't101', 't102'"),
        (texts(3), Nan(), "not finite; check the encoder"),
        ([], Hashing(), "the source holds no document"),
    ):
        with pytest.raises(DataError, match=told):
            bank.add(source, encoder, batch=10)
        assert files() == before, "nothing that another `add` would have to go on with"
    with pytest.raises(DataError, match="ids that come twice"):
        Memory.merge([bank.folder, bank.folder], tmp_path / "merged")
    assert [p.name for p in tmp_path.iterdir()] == ["bank"]
    assert bank.add(texts(3), Hashing()).added == 3


def test_a_disk_without_room_is_told_and_the_run_goes_on_later(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the system refuses the same calls."""
    bank = Memory.build(tmp_path / "bank", texts(5, 100), Hashing())
    whole = sorted((str(p), p.read_bytes()) for p in bank.folder.rglob("*") if p.is_file())
    for limit, write in (
        (4096, lambda: Memory.build(tmp_path / "other", texts(2000), Hashing())),
        (30_000, lambda: Memory.build(tmp_path / "other", texts(2000), Hashing())),
        (40_000, lambda: bank.add(texts(2000, 200), Hashing())),
        (0, lambda: bank.delete(["t100"])),
        (500, lambda: Memory.merge([bank.folder], tmp_path / "merged")),
    ):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(DiskError, match="make room, or") as told:
                write()
            assert "\n" not in str(told.value)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [(n, d) for n, d in whole if Path(n).read_bytes() == d] == whole
    assert len(Memory.open(bank.folder)) == 5
    assert bank.add(texts(2000, 200), Hashing()).added == 2000 and len(Memory.open(bank.folder)) == 2005
    assert Memory.build(tmp_path / "other", texts(2000), Hashing()).report is not None


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A bank that may not be written to, also not by root."""
    Memory.build(tmp_path / "bank", texts(5), Hashing())
    folder, files = tmp_path / "bank", [tmp_path / "bank", *(tmp_path / "bank").rglob("*")]
    for path in files:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.access(folder, os.W_OK) and subprocess.run(["chattr", "-R", "+i", folder], capture_output=True).returncode:
        pytest.skip("neither permissions nor chattr keep this user from writing")
    yield folder
    subprocess.run(["chattr", "-R", "-i", folder], capture_output=True)
    for path in files:
        path.chmod(0o755)


def test_a_bank_that_is_read_only_is_searched_and_not_written(read_only: Path) -> None:
    bank = Memory.open(read_only, verify=True)
    assert bank.search(bank.vectors(["t3"]), 1)[0] == [["t3"]] and bank["t3"].text == "word3 red"
    for write in (lambda: bank.add(texts(3, 9), Hashing()), lambda: bank.delete(["t3"])):
        with pytest.raises(DiskError, match="bank.*may not be written to .*; choose another place"):
            write()
    assert len(Memory.merge([read_only], read_only.parent / "copy")) == 5


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
