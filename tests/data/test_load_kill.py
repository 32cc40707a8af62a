"""kill -9: a run that is killed again and again, on one number of ranks after another, sees every document once.

Each run is a process that trains on nothing: for every batch of every rank it notes the documents that it got, then
saves the joined state, in one file put in its place at once, as a checkpoint is. A batch counts when it was saved.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from cm3.data.lanes import LoaderState, merge_states
from cm3.data.load import Loader, Source
from cm3.data.order import Mixture
from cm3.data.pack import Batch
from cm3.sequence.mask import MaskLaw, cm3_unmask
from cm3.vocab import Tokens, Vocab

VOCAB = Vocab(text=256, image=16, masks=8, reserved=0)
LENGTHS = (61, 140)
KILLS = 24
EPOCHS = 3
"""Of the smaller source, at least."""


class Mixed(Source):
    """Documents of two sources that say who they are: source, epoch, number."""

    together = 1

    def __init__(self) -> None:
        self.mixture = Mixture(LENGTHS, [1, 2], seed=4)

    def sequences(self, indices: list[int]) -> list[Tokens]:
        places = zip(*self.mixture.locate(indices), strict=True)
        return [self.one(*(int(v) for v in place)) for place in places]

    @staticmethod
    def one(*who: int) -> Tokens:
        words = VOCAB.text_start + np.array([*who, *[250] * (sum(who) % 23)])
        return Tokens.of([VOCAB.eos, *words, VOCAB.eos])


def loader(state: LoaderState | None, rank: int, ranks: int) -> Loader:
    return Loader(Mixed(), VOCAB, MaskLaw(), windows=4, length=64, seed=1, rank=rank, ranks=ranks, state=state)


def who(batch: Batch) -> list[list[int]]:
    """Source, epoch and number of each document of a batch."""
    found = []
    for ids, numbers in zip(batch.ids, batch.documents, strict=True):
        for n in range(1, numbers.max() + 1):
            words = cm3_unmask(Tokens.of(ids[numbers == n]), VOCAB).ids[1:4] - VOCAB.text_start
            found.append(words.tolist())
    return found


def consume(folder: Path, ranks: int) -> None:
    """Take batches for ever, from the last that was saved."""
    path = folder / "saved.json"
    saved = json.loads(path.read_text()) if path.exists() else {"state": None, "seen": []}
    state = LoaderState.of(saved["state"]) if saved["state"] is not None else None
    for parts in zip(*(loader(state, rank, ranks) for rank in range(ranks)), strict=True):
        saved["seen"].append([one for batch, _ in parts for one in who(batch)])
        with (folder / "started").open("a") as file:
            file.write(f"{len(saved['seen'])}\n")
        saved["state"] = merge_states([part for _, part in parts]).plain()
        (folder / "part").write_text(json.dumps(saved))
        os.replace(folder / "part", path)


def test_every_document_comes_once_an_epoch_however_often_a_run_is_killed(tmp_path: Path) -> None:
    rng, root, here = random.Random(0), Path(__file__).resolve().parents[2], str(Path(__file__).parent)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([here, str(root)])}
    pool = f"""
import os, sys
from pathlib import Path
import test_load_kill
# One process loads the libraries; each run is a fork of it.
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        test_load_kill.consume(Path({str(tmp_path)!r}), int(line))
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""
    started = tmp_path / "started"
    with subprocess.Popen(
        [sys.executable, "-c", pool], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for kill in range(KILLS):
            before = len(started.read_text().splitlines()) if started.exists() else 0
            process.stdin.write(f"{rng.choice([1, 2, 4])}\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            deadline = time.monotonic() + 60
            # Of so many batches, all but the last were saved: a run of kills goes on, however slow the machine.
            begun = rng.randint(1, 5)
            while not (started.exists() and len(started.read_text().splitlines()) >= before + begun):
                assert time.monotonic() < deadline, f"run {kill} did not give a batch"
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            assert process.stdout.readline() == "dead\n"
        process.stdin.close()
    saved = json.loads((tmp_path / "saved.json").read_text())
    state, seen = LoaderState.of(saved["state"]), saved["seen"]

    # The very batches of a run of one rank that was never killed.
    whole = list(itertools.islice(loader(None, 0, 1), len(seen)))
    assert [sorted(batch) for batch in seen] == [sorted(who(batch)) for batch, _ in whole] and state == whole[-1][1]

    # And, counted: with those that wait, each document once an epoch.
    waiting = [p for lane in state.lanes.values() for p in lane.waiting]
    found = Counter(tuple(one) for batch in seen for one in batch)
    found.update(zip(*(a.tolist() for a in Mixed().mixture.locate(waiting)), strict=True))
    done = {s: max(epoch for source, epoch, _ in found if source == s) for s in (0, 1)}
    assert max(found.values()) == 1
    for source, n in enumerate(LENGTHS):
        full = [e for e in range(done[source]) if sum(k[:2] == (source, e) for k in found) == n]
        # A lane may be a little ahead of another, so the last two epochs may lack some.
        assert full[: done[source] - 1] == list(range(max(done[source] - 1, 0)))
    assert done[0] >= EPOCHS
