"""A run that was stopped or killed ends in the same bits as one that was not; others' checkpoints are refused."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import MODEL, VOCAB, Pairs, alter, config, config_of, records, same_bits

from cm3.errors import CheckpointError, ConfigError
from cm3.sequence.mask import MaskLaw
from cm3.train import checkpoint
from cm3.train.optim import OptimConfig
from cm3.train.trainer import Trainer


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("stop", [4, 7])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path, name: str, stop: int) -> None:
    changes: dict[str, Any] = {"optim": OptimConfig(name=name, lr=1e-2, warmup=2), "z_loss": 1e-3}  # type: ignore[arg-type]
    one, two = config(tmp_path / "one", **changes), config(tmp_path / "two", **changes)
    Trainer(one, VOCAB, Pairs()).run(progress=False)

    class Killed(BaseException):
        pass

    def kill(trainer: Trainer) -> None:
        if trainer.step == stop:
            raise Killed

    with pytest.raises(Killed):
        Trainer(replace(two, sample_every=1), VOCAB, Pairs()).run(progress=False, callbacks=[kill])
    with (tmp_path / "two" / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')  # a kill in the middle of a line
    resumed = Trainer(two, VOCAB, Pairs(), resume=True)
    assert resumed.step == 4
    resumed.run(progress=False)
    assert same_bits(tmp_path / "one", tmp_path / "two")
    assert records(tmp_path / "one") == records(tmp_path / "two")
    assert [r["step"] for r in records(tmp_path / "two")] == list(range(1, 13))
    assert not [p for p in (tmp_path / "two").iterdir() if p.name.startswith(".")]


def go_on(out: Path, wait: Callable[[int], float] = lambda step: 0) -> None:
    """Train from where a run is, with a pause of so many seconds after a step."""
    c = config(out, sample_every=1, steps=60, save_every=2)
    Trainer(c, VOCAB, Pairs(), resume=True).run(
        progress=False, callbacks=[lambda trainer: time.sleep(wait(trainer.step))]
    )


def test_a_run_that_was_killed_ten_times_ends_in_the_same_bits(tmp_path: Path) -> None:
    """kill -9 at any moment of a process of its own: resuming, training, writing a checkpoint."""
    torch.set_num_threads(1)  # the children are forked, and threads of OpenMP do not come along
    out, rng, found = tmp_path / "two", np.random.default_rng(), 0
    for turn in range(10):
        # Forked: a process that starts from nothing is seconds of imports.
        if not (child := os.fork()):
            with contextlib.suppress(BaseException):
                # Near its end it waits for the kill, however late that comes.
                go_on(out, lambda step: 0.005 if step < 56 else 100)
            os._exit(7)  # neither killed nor done
        deadline = time.monotonic() + 60
        wanted = min(found + 2 + int(rng.integers(4)), 50) if turn else 3
        while (checkpoint.last(out) or 0) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        found = checkpoint.last(out) or 0
        lines = len((out / "log.jsonl").read_text().splitlines())
        assert found >= wanted and lines - found <= 4, "no more is lost than since the save before the last"
    go_on(out)
    Trainer(config(tmp_path / "one", steps=60, save_every=2), VOCAB, Pairs()).run(progress=False)
    assert same_bits(tmp_path / "one", out) and records(tmp_path / "one") == records(out)
    assert not list((out / "checkpoints").glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_the_run(tmp_path: Path, number: signal.Signals) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    def send(trainer: Trainer) -> None:
        if trainer.step == 5:
            os.kill(os.getpid(), number)

    c = config(tmp_path / "two", sample_every=1)
    record = Trainer(c, VOCAB, Pairs()).run(progress=False, callbacks=[send])
    assert record["stopped"] == number.name and record["step"] == 5 == checkpoint.last(tmp_path / "two")
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    last = Trainer(c, VOCAB, Pairs(), resume=True).run(progress=False)
    assert last["step"] == 12 and "stopped" not in last
    Trainer(config(tmp_path / "one"), VOCAB, Pairs()).run(progress=False)
    assert same_bits(tmp_path / "one", tmp_path / "two") and records(tmp_path / "one") == records(tmp_path / "two")


def test_a_second_interrupt_is_one_at_once_and_a_second_sigterm_is_not(tmp_path: Path) -> None:
    def send(*numbers: signal.Signals) -> Callable[[Trainer], None]:
        return lambda trainer: [os.kill(os.getpid(), n) for n in numbers] and None

    for name, first in (("a", signal.SIGINT), ("b", signal.SIGTERM)):
        with pytest.raises(KeyboardInterrupt):
            Trainer(config(tmp_path / name, sample_every=1), VOCAB, Pairs()).run(
                progress=False, callbacks=[send(first, signal.SIGINT)]
            )
    both = send(signal.SIGTERM, signal.SIGTERM)
    c = config(tmp_path / "c", sample_every=1)
    assert Trainer(c, VOCAB, Pairs()).run(progress=False, callbacks=[both])["stopped"] == "SIGTERM"
    assert checkpoint.last(tmp_path / "c") == 1


def test_in_another_thread_signals_are_left_alone(tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    trainer = Trainer(config(tmp_path), VOCAB, Pairs())
    thread = threading.Thread(target=lambda: found.append(trainer.run(progress=False)))
    thread.start()
    thread.join()
    assert found[0]["step"] == 12


def test_a_new_run_does_not_go_over_an_old_one(tmp_path: Path) -> None:
    Trainer(config(tmp_path, steps=3), VOCAB, Pairs()).run(progress=False)
    with pytest.raises(ConfigError, match="holds a run already; continue it with --resume, or give another --out"):
        Trainer(config(tmp_path, steps=3), VOCAB, Pairs())


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    Trainer(config(tmp_path, steps=2), VOCAB, Pairs()).run(progress=False)
    for changes, message in (
        ({"model": replace(MODEL, d_model=32)}, "is of another model; give the same model"),
        ({"seed": 4}, "was made with seed=3, this run has 4; give the same, or another out"),
        ({"windows": 3}, "was made with windows=2, this run has 3"),
        ({"optim": OptimConfig(name="muon")}, "was made with optim.name='adamw', this run has 'muon'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Trainer(config(tmp_path, **changes), VOCAB, Pairs(), resume=True)
    other = replace(VOCAB, masks=7, reserved=1)
    with pytest.raises(CheckpointError, match="is of another vocabulary; give the same tokenizers"):
        Trainer(config(tmp_path), other, Pairs(), resume=True)
    about = config_of(tmp_path) | {"data": {"seed": 1}}
    alter(tmp_path, config=about)
    with pytest.raises(CheckpointError, match="was made with data.seed=1, this run has 2"):
        Trainer(config(tmp_path), VOCAB, Pairs(), resume=True, about=about | {"data": {"seed": 2}})
    alter(tmp_path, loader=[14, 3])
    with pytest.raises(CheckpointError, match="loader state: is not of this version's loader; go on with the version"):
        Trainer(config(tmp_path), VOCAB, Pairs(), resume=True)
    alter(tmp_path, spikes=7)
    with pytest.raises(CheckpointError, match="loader state|state.json lacks"):
        Trainer(config(tmp_path), VOCAB, Pairs(), resume=True)


def test_what_may_change_is_said_in_the_log(tmp_path: Path) -> None:
    Trainer(config(tmp_path, steps=4), VOCAB, Pairs()).run(progress=False)
    changes: dict[str, Any] = {"optim": OptimConfig(lr=1e-3, warmup=2), "mask": MaskLaw(rate=0.5), "z_loss": 1e-4}
    Trainer(config(tmp_path, steps=6, log_every=2, **changes), VOCAB, Pairs(), resume=True).run(progress=False)
    [line] = [r for r in records(tmp_path) if "changed" in r]
    assert line == {
        "step": 4,
        "changed": {"optim.lr": [0.01, 0.001], "mask.rate": [1.0, 0.5], "z_loss": [0.0, 1e-4], "steps": [4, 6]},
    }
    # What is said once is not said again.
    Trainer(config(tmp_path, steps=8, **changes), VOCAB, Pairs(), resume=True).run(progress=False)
    assert [r["changed"] for r in records(tmp_path) if "changed" in r][1:] == [{"steps": [6, 8]}]


def test_a_run_of_before_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="checkpoint.pt is not of this version's trainer; give another out"):
        Trainer(config(tmp_path), VOCAB, Pairs(), resume=True)
    with pytest.raises(ConfigError, match="holds a run already"):
        Trainer(config(tmp_path), VOCAB, Pairs())


def test_a_checkpoint_from_before_a_setting_was_added_resumes(tmp_path: Path) -> None:
    Trainer(config(tmp_path, steps=2), VOCAB, Pairs()).run(progress=False)
    about = config_of(tmp_path)
    del about["model"]["norm_order"], about["spike_sigma"]
    alter(tmp_path, config=about)
    resumed = Trainer(config(tmp_path, steps=2), VOCAB, Pairs(), resume=True)
    assert resumed.step == 2 and not resumed.changed
    about["model"]["from_the_future"] = 1
    alter(tmp_path, config=about)
    with pytest.raises(CheckpointError, match="is of another model"):
        Trainer(config(tmp_path), VOCAB, Pairs(), resume=True)
