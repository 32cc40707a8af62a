"""The training loop: it learns, its loss is that of its documents, it measures what is held out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import MODEL, VOCAB, Others, Pairs, config, records, same_bits

from cm3.data.load import Loader, Source
from cm3.errors import ConfigError
from cm3.model.attention import Causal
from cm3.model.loss import next_token_loss
from cm3.sequence.mask import MaskLaw
from cm3.train.optim import OptimConfig
from cm3.train.trainer import TrainConfig, Trainer
from cm3.vocab import Tokens


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
    assert {"loss_at_1", "loss_at_4", "output_norm", "memory_gb", "data_wait"} <= last.keys() and "mfu" not in last
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


def test_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        Trainer(config(tmp_path / name, seed=seed, steps=2), VOCAB, Pairs()).run(progress=False)
    assert same_bits(tmp_path / "a", tmp_path / "b") and not same_bits(tmp_path / "a", tmp_path / "c")


def test_windows_may_pass_one_after_the_other(tmp_path: Path) -> None:
    """Gradients added up are those of the whole batch, whatever number of targets each window has."""
    c = config(tmp_path / "one", windows=5, text_weight=2.0, z_loss=1e-3)
    Trainer(c, VOCAB, Pairs()).run(progress=False)
    Trainer(replace(c, out=str(tmp_path / "two"), micro=2), VOCAB, Pairs()).run(progress=False)
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], abs=1e-5)
    assert [r["grad_norm"] for r in two] == pytest.approx([r["grad_norm"] for r in one], rel=1e-4)
    assert {k for r in two for k in r} == {k for r in one for k in r} and two[3]["loss_at_4"] == pytest.approx(
        one[3]["loss_at_4"], abs=1e-5
    )


def test_validation_measures_the_same_documents_each_time_and_changes_nothing(tmp_path: Path) -> None:
    c = config(tmp_path / "one", optim=OptimConfig(lr=1e-2, warmup=0), steps=8)
    Trainer(c, VOCAB, Pairs()).run(progress=False)
    c = replace(c, out=str(tmp_path / "two"), validate_every=4, validate_batches=3)
    trainer = Trainer(c, VOCAB, Pairs(), validation=Others())
    last = trainer.run(progress=False)
    lines = [r for r in records(tmp_path / "two") if "val_loss" in r]
    assert [r["step"] for r in lines] == [4, 8] and lines[1]["val_loss"] < lines[0]["val_loss"]
    assert last["val_loss"] == trainer.validate()["val_loss"] and last["val_loss_image"] > 0
    assert [r for r in records(tmp_path / "two") if "val_loss" not in r] == records(tmp_path / "one")
    # Against the loader's own batches.
    loader = Loader(Others(), VOCAB, c.mask, windows=2, length=64, seed=0, longest=64)
    sums = sum((trainer.loss(next(iter(loader))[0]).sums for _ in range(3)), torch.zeros(3))
    loader = Loader(Others(), VOCAB, c.mask, windows=2, length=64, seed=0, longest=64)
    counts = sum((trainer.loss(next(iter(loader))[0]).counts for _ in range(3)), torch.zeros(3))
    assert last["val_loss"] == pytest.approx(float(sums.sum() / counts.sum()), rel=1e-5)
    with pytest.raises(ConfigError, match="validate_every=4: there are no documents held out; give 0"):
        Trainer(replace(c, out=str(tmp_path / "three")), VOCAB, Pairs())


def test_a_window_may_be_longer_than_the_context_and_a_document_may_not(tmp_path: Path) -> None:
    class Long(Source):
        def sequences(self, indices: Sequence[int]) -> list[Tokens]:
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
        ({"micro": -1}, "micro=-1: must not be negative"),
        ({"keep": 0}, "keep=0: must be at least 1"),
        ({"on_spike": "go"}, "on_spike='go': must be one of note, skip, stop"),
        ({"track": "paper"}, "track='paper': must be one of tensorboard, wandb"),
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
