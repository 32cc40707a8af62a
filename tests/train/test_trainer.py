"""The training loop: it learns, and a run that was killed ends in the same bits as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cm3.data.mask import MaskLaw
from cm3.errors import CheckpointError, ConfigError
from cm3.model.attention import Causal
from cm3.model.decoder import DecoderConfig
from cm3.model.loss import next_token_loss
from cm3.train import checkpoint
from cm3.train.optim import OptimConfig
from cm3.train.trainer import TrainConfig, Trainer
from cm3.vocab import Tokens, Vocab

VOCAB = Vocab(text=256, image=16, masks=8, reserved=0)
MODEL = DecoderConfig(
    vocab_size=VOCAB.size, d_model=16, layers=1, heads=2, context=64, positions="rope", grid=(2, 2), init_std=0.05
)


class Pairs:
    """Some words and a picture of four codes that depends on the first; `kinds` documents, again and again."""

    def __init__(self, kinds: int = 1000) -> None:
        self.kinds = kinds

    def tokens(self, indices: Sequence[int]) -> list[Tokens]:
        return [self.one(i % self.kinds) for i in indices]

    @staticmethod
    def one(i: int) -> Tokens:
        rng = np.random.default_rng(i)
        words = VOCAB.text_start + np.concatenate([[i % 16], rng.integers(0, 256, 4)])
        codes = VOCAB.image_start + (i + np.arange(4)) % 16
        return Tokens.of([VOCAB.eos, *words, VOCAB.brk, *codes, VOCAB.eos], [0] * 7 + [1, 2, 3, 4] + [0])


def config(out: Path, **changes: Any) -> TrainConfig:
    base = TrainConfig(
        str(out), MODEL, optim=OptimConfig(lr=1e-2, warmup=2), steps=12, windows=2, length=64, log_every=1,
        save_every=4, sample_every=0, seed=3,
    )  # fmt: skip
    return replace(base, **changes)


def records(out: Path) -> list[dict[str, float]]:
    """The log without what the clock says."""
    clock = {"tokens_per_s", "gflop_per_s", "data_wait"}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(out / "checkpoint.pt")["model"]


def same_bits(a: Path, b: Path) -> bool:
    x, y = weights(a), weights(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


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


RUN = """
import sys, time
from test_trainer import Pairs, VOCAB, config
from cm3.train.trainer import Trainer
slow = float(sys.argv[2])
Trainer(config(sys.argv[1], sample_every=1, steps=40), VOCAB, Pairs(), resume=sys.argv[3] == "resume").run(
    progress=False, callbacks=[lambda trainer: time.sleep(slow)]
)
"""


def test_a_run_that_was_killed_for_real_continues(tmp_path: Path) -> None:
    """kill -9 between two steps of a process of its own, then a resume, against an unbroken run."""
    here = str(Path(__file__).parent)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path / "two"), "0.05", "new"], env=env, cwd=root)
    log = tmp_path / "two" / "log.jsonl"
    try:
        deadline = time.monotonic() + 90
        while not (log.exists() and len(log.read_text().splitlines()) >= 10) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = len(log.read_text().splitlines())
    assert 10 <= reached < 40 and (tmp_path / "two" / "checkpoint.pt").exists()
    resumed = Trainer(config(tmp_path / "two", steps=40), VOCAB, Pairs(), resume=True)
    assert 4 <= resumed.step <= reached and resumed.step % 4 == 0
    resumed.run(progress=False)
    Trainer(config(tmp_path / "one", steps=40), VOCAB, Pairs()).run(progress=False)
    assert same_bits(tmp_path / "one", tmp_path / "two") and records(tmp_path / "one") == records(tmp_path / "two")


def test_it_learns_a_few_documents_by_heart(tmp_path: Path) -> None:
    c = config(
        tmp_path, mask=MaskLaw(rate=0), steps=100, optim=OptimConfig(name="muon", lr=0.02, adam_lr=0.02, warmup=5)
    )
    seen: list[int] = []
    trainer = Trainer(replace(c, sample_every=50, log_every=10), VOCAB, Pairs(4))
    last = trainer.run(progress=False, callbacks=[lambda t: seen.append(t.step)])
    lines = records(tmp_path)
    assert [r["step"] for r in lines] == list(range(10, 101, 10)) and seen == [50, 100]
    assert lines[0]["loss"] > 3 and last["loss"] < 1
    # Which document it is can only be told after the first word, everything else is known.
    assert last["loss_image"] < 0.3 and last["loss_special"] < 0.3
    assert {"loss_text", "grad_norm", "tokens_per_s", "gflop_per_s", "fill", "lr", "parameters"} <= last.keys()
    assert 0.5 < last["fill"] <= 1 and last["tokens_per_s"] > 0
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 100


def test_the_loss_of_a_packed_batch_is_that_of_its_documents_alone(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path, mask=MaskLaw(rate=0)), VOCAB, Pairs())
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.normal_(0, 0.3)
    batch = next(iter(trainer.loader))[0]
    packed = trainer.loss(batch)
    sums, counts = torch.zeros(3), torch.zeros(3)
    documents = trainer.loader.state.documents
    waiting = {p for lane in trainer.loader.state.lanes.values() for p in lane.waiting}
    ahead = [i for n, lane in trainer.loader.state.lanes.items() for i in range(n, lane.next, 2) if i not in waiting]
    assert len(ahead) == documents
    for i in ahead:
        ids, cells = (torch.from_numpy(a.astype(np.int64))[None] for a in Pairs.one(i))
        hidden = trainer.model.hidden(ids, torch.arange(ids.shape[1])[None], Causal(), cells)[0]
        alone = next_token_loss(trainer.model.head, hidden[:-1], ids[0, 1:], torch.ones(ids.shape[1] - 1), VOCAB)
        sums, counts = sums + alone.sums, counts + alone.counts
    assert documents > 8 and torch.equal(packed.counts, counts)
    torch.testing.assert_close(packed.sums, sums)
    assert float(packed.total.detach()) == pytest.approx(float(sums.sum() / counts.sum()), rel=1e-5)


def test_text_weight(tmp_path: Path) -> None:
    batch = next(iter(Trainer(config(tmp_path), VOCAB, Pairs()).loader))[0]
    losses = {w: Trainer(config(tmp_path, text_weight=w), VOCAB, Pairs()).loss(batch) for w in (1.0, 3.0)}
    sums, counts = losses[1.0].sums, losses[1.0].counts
    want = (3 * sums[0] + sums[1] + sums[2]) / (3 * counts[0] + counts[1] + counts[2])
    assert float(losses[3.0].total.detach()) == pytest.approx(float(want), rel=1e-5)
    # What is reported by group is never weighted.
    torch.testing.assert_close(losses[3.0].sums, sums)


def test_a_loss_that_is_not_finite_names_the_step_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    def poison(trainer: Trainer) -> None:
        if trainer.step == 6:
            with torch.no_grad():
                trainer.model.embed.weight.fill_(float("nan"))

    c = config(tmp_path, sample_every=1)
    with pytest.raises(FloatingPointError, match=r"step 6: the loss is nan \(documents \d+ to \d+\); lower optim.lr"):
        Trainer(c, VOCAB, Pairs()).run(progress=False, callbacks=[poison])
    saved = checkpoint.load(tmp_path / "checkpoint.pt")
    assert saved["step"] == 4 and all(torch.isfinite(p).all() for p in saved["model"].values())
    assert Trainer(c, VOCAB, Pairs(), resume=True).run(progress=False)["step"] == 12


def test_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        Trainer(config(tmp_path / name, seed=seed, steps=2), VOCAB, Pairs()).run(progress=False)
    assert same_bits(tmp_path / "a", tmp_path / "b") and not same_bits(tmp_path / "a", tmp_path / "c")


def test_a_new_run_in_an_old_folder_starts_its_log_anew(tmp_path: Path) -> None:
    for _ in range(2):
        Trainer(config(tmp_path, steps=3), VOCAB, Pairs()).run(progress=False)
    assert [r["step"] for r in records(tmp_path)] == [1, 2, 3]


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    Trainer(config(tmp_path, steps=2), VOCAB, Pairs()).run(progress=False)
    other = replace(MODEL, d_model=32)
    with pytest.raises(CheckpointError, match="is of another model; give the same model"):
        Trainer(config(tmp_path, model=other), VOCAB, Pairs(), resume=True)
    with pytest.raises(CheckpointError, match="loader state has seed 3, this run has 4"):
        Trainer(config(tmp_path, seed=4), VOCAB, Pairs(), resume=True)
    with pytest.raises(CheckpointError, match="loader state has windows=2, this run has 3; resume with the same wind"):
        Trainer(config(tmp_path, windows=3), VOCAB, Pairs(), resume=True)
    with pytest.raises(CheckpointError, match="does not fit this run .* give the same optim.name"):
        Trainer(config(tmp_path, optim=OptimConfig(name="muon")), VOCAB, Pairs(), resume=True)
    # Such as the image tokenizer's, in the same folder by mistake.
    checkpoint.save(tmp_path / "checkpoint.pt", {"step": 3, "vqgan": {}})
    with pytest.raises(CheckpointError, match="is of another model"):
        Trainer(config(tmp_path), VOCAB, Pairs(), resume=True)


def test_a_checkpoint_of_an_older_loader_is_refused(tmp_path: Path) -> None:
    Trainer(config(tmp_path, steps=2), VOCAB, Pairs()).run(progress=False)
    saved = checkpoint.load(tmp_path / "checkpoint.pt")
    checkpoint.save(tmp_path / "checkpoint.pt", saved | {"loader": (14, 3)})
    with pytest.raises(CheckpointError, match="loader state: is not of this version's loader; go on with the version"):
        Trainer(config(tmp_path), VOCAB, Pairs(), resume=True)


def test_a_window_may_be_longer_than_the_context_and_a_document_may_not(tmp_path: Path) -> None:
    class Long:
        def tokens(self, indices: Sequence[int]) -> list[Tokens]:
            words = VOCAB.text_start + np.arange(100)
            return [Pairs.one(i) if i % 3 else Tokens.of([VOCAB.eos, *words, VOCAB.eos]) for i in indices]

    # Learned positions: one past the context would not be there.
    model = replace(MODEL, positions="learned")
    trainer = Trainer(config(tmp_path, model=model, windows=1, length=400, steps=4), VOCAB, Long())
    last = trainer.run(progress=False)
    counts = trainer.loader.counts
    assert counts.truncated > 4 and counts.documents > 24 and counts.padding < 0.1
    assert sum(r.get("truncated", 0) for r in records(tmp_path)) == counts.truncated and last["fill"] > 0.8
    batch = next(iter(trainer.loader))[0]
    assert batch.positions.max() == 63 and batch.positions.shape == (1, 400)


def test_a_checkpoint_from_before_a_setting_was_added_resumes(tmp_path: Path) -> None:
    Trainer(config(tmp_path, steps=2), VOCAB, Pairs()).run(progress=False)
    saved = checkpoint.load(tmp_path / "checkpoint.pt")
    del saved["model_config"]["norm_order"]
    checkpoint.save(tmp_path / "checkpoint.pt", saved)
    assert Trainer(config(tmp_path), VOCAB, Pairs(), resume=True).step == 2
    saved["model_config"]["from_the_future"] = 1
    checkpoint.save(tmp_path / "checkpoint.pt", saved)
    with pytest.raises(CheckpointError, match="is of another model"):
        Trainer(config(tmp_path), VOCAB, Pairs(), resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0: must be at least 1"),
        ({"windows": 0}, "windows=0: must be at least 1"),
        ({"length": 4}, "length=4: must be at least 8"),
        ({"log_every": 0}, "log_every=0: must be at least 1"),
        ({"save_every": 0}, "save_every=0: must be at least 1"),
        ({"sample_every": -1}, "sample_every=-1: must not be negative"),
        ({"threads": -1}, "threads=-1: must not be negative"),
        ({"z_loss": -1e-4}, "z_loss=-0.0001: must not be negative"),
        ({"text_weight": -1.0}, "text_weight=-1.0: must not be negative"),
    ],
)
def test_config_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **changes)


def test_a_run_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="out='': must be the folder to write to"):
        TrainConfig("", MODEL, length=64)


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.vocab_size=286: must be the vocabulary's 287"):
        Trainer(config(tmp_path), replace(VOCAB, image=17), Pairs())
    assert not list(tmp_path.iterdir())
