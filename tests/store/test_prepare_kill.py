"""Killed at any moment and given again, the same command ends in the very bytes of a run that nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import store_parts
from forks import forks
from store_parts import contents

from cm3.store.store import Store

PICTURES = 40
OPTIONS: dict[str, Any] = {"unit": 2}
KILLS = 24


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers, pictures, one of them damaged and one twice, and the store of an undisturbed run."""
    root = tmp_path_factory.mktemp("kill")
    store_parts.tokenizers(root / "model")
    photos = store_parts.photos(root / "photos", PICTURES)
    (photos / "020.png").write_bytes(b"no picture")
    for end in ("png", "txt"):
        (photos / f"035.{end}").write_bytes((photos / f"010.{end}").read_bytes())
    store_parts.run([str(photos)], str(root / "whole"), str(root / "model"), OPTIONS)
    return root


Start = Callable[..., Any]


@pytest.fixture
def start(parts: Path) -> Start:
    def begin(out: Path, target: Callable[..., None] = store_parts.run, *before: Any, **options: Any) -> Any:
        args = (*before, [str(parts / "photos")], str(out), str(parts / "model"), OPTIONS | options)
        process = forks().Process(target=target, args=args)
        process.start()
        return process

    return begin


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_moments(parts: Path, start: Start, tmp_path: Path) -> None:
    rng = random.Random(0)
    warm = start(tmp_path / "warm")
    warm.join()
    began = time.monotonic()
    whole = start(tmp_path / "again")
    whole.join()
    lasts = time.monotonic() - began
    wanted = contents(parts / "whole")
    assert whole.exitcode == 0 and contents(tmp_path / "again") == wanted
    units = sum(name.startswith("shards/") and name.endswith(".json") for name in map(str, wanted))
    kills = rounds = 0
    begun_again = False
    while kills < KILLS:
        out = tmp_path / f"round{rounds}"
        rounds += 1
        patience = lasts
        while True:
            process = start(out)
            if kills % 3 == 2:  # not by the clock: on any machine some kills have to hit a store that is half done
                wanted_done = rng.randint(1, units - 3)
                while process.exitcode is None and len(list(out.glob("shards/*.json"))) < wanted_done:
                    time.sleep(0.002)
            else:
                process.join(rng.uniform(0.02, 0.5) * patience)
            # On a machine that has become slower since, every kill would else come before anything is done.
            patience *= 1.3
            done = len(list(out.glob("shards/*.json")))
            if process.exitcode is None:
                process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
            begun_again |= 0 < done < units - 2
        assert contents(out) == wanted
        Store.open(out).verify()
    assert begun_again, "at least one kill hit a store that was half done"


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_each_write(parts: Path, start: Start, tmp_path: Path, after: bool) -> None:
    """Around the plan, the tokenizer, the first shard and report, and index and manifest; then a second time."""
    wanted = contents(parts / "whole")
    last = len(wanted)
    for write in (1, 2, 3, 4, last - 1, last):
        out = tmp_path / f"{write}"
        process = start(out, store_parts.run_until, write, after)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        process = start(out, store_parts.run_until, 2, after)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode:
            process = start(out)
            process.join()
        assert process.exitcode == 0 and contents(out) == wanted


def test_workers_end_with_the_run_that_was_killed(parts: Path, start: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out, workers=2)
    deadline = time.monotonic() + 60
    while not list(out.glob("shards/*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = _children(process.pid)
    assert len(children) >= 2
    process.kill()
    process.join()
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_alive, children))
    process = start(out)
    process.join()
    assert process.exitcode == 0 and contents(out) == contents(parts / "whole")


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
