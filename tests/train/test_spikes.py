"""A loss that jumps, or is not finite, is named, and learnt from, skipped or the end, by setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import VOCAB, Pairs, config, poison, records, state, weights

from cm3.sequence.mask import MaskLaw
from cm3.train.optim import OptimConfig
from cm3.train.spike import packed
from cm3.train.trainer import Trainer
from cm3.vocab import Tokens


def test_a_loss_that_is_not_finite_names_the_step_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    c = config(tmp_path, sample_every=1)
    told = r"step 7: the loss is nan \(\d+ documents, at positions \d+, .*\); lower optim.lr.*or set on_spike to skip"
    with pytest.raises(FloatingPointError, match=told):
        Trainer(c, VOCAB, Pairs()).run(progress=False, callbacks=[poison(6)])
    [note] = [r for r in records(tmp_path) if "spike" in r]
    assert note["step"] == 7 and not note["learnt"] and note["positions"]
    assert state(tmp_path)["step"] == 4 and all(torch.isfinite(p).all() for p in weights(tmp_path).values())
    assert Trainer(c, VOCAB, Pairs(), resume=True).run(progress=False)["step"] == 12


def test_a_batch_whose_loss_is_not_finite_is_skipped_if_wanted(tmp_path: Path) -> None:
    c = config(tmp_path, sample_every=1, on_spike="skip")
    trainer = Trainer(c, VOCAB, Pairs())
    states = {0: trainer.position}

    def watch(trainer: Trainer) -> None:
        states[trainer.step] = trainer.position

    assert trainer.run(progress=False, callbacks=[poison(6), watch])["step"] == 12
    [note] = [r for r in records(tmp_path) if "spike" in r]
    assert note["step"] == 7 and not note["learnt"] and note["spike"] == "the loss is nan" and note["spikes"] == 1
    # Documents are those that the log names: one lane after the other, none twice.
    taken = [p for n in range(1, 13) for p in packed(states[n - 1], states[n])]
    assert sorted(packed(states[6], states[7])) == note["positions"] and len(taken) == len(set(taken))
    assert state(tmp_path)["spikes"]["count"] == 1
    # Its loss is in no line, neither its own nor those of the window.
    line = next(r for r in records(tmp_path) if r["step"] == 7 and "lr" in r)
    assert not [name for name in line if name.startswith("loss")] and "NaN" not in (tmp_path / "log.jsonl").read_text()
    wide = config(tmp_path / "wide", sample_every=1, on_spike="skip", log_every=4)
    last = Trainer(wide, VOCAB, Pairs()).run(progress=False, callbacks=[poison(6)])
    lines = [r for r in records(tmp_path / "wide") if "lr" in r]
    assert [r["step"] for r in lines] == [4, 8, 12] and all(0 < r["loss_text"] < 9 for r in [*lines, last])
    # Ten in a row are not the data's fault. Nothing is saved on the way: weights of NaN never are.
    dead = Trainer(replace(c, steps=40, save_every=40), VOCAB, Pairs(), resume=True)
    with torch.no_grad():
        dead.model.embed.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 22: the loss is nan"):
        dead.run(progress=False)


def test_a_gradient_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path), VOCAB, Pairs())
    trainer.model.norm.register_forward_hook(
        lambda m, i, out: out + 0 * (out - out.detach() + 1e-46).pow(0.5) if trainer.step == 3 else out
    )
    with pytest.raises(FloatingPointError, match=r"step 4: the gradient norm is nan \(\d+ documents"):
        trainer.run(progress=False)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    """The loss of a step says nothing of what its update made of the weights."""
    c = config(tmp_path, save_every=4)
    trainer = Trainer(c, VOCAB, Pairs())
    for _ in range(4):
        trainer.advance()
    trainer.save()
    trainer.checkpoints.wait()
    trainer.advance()
    with torch.no_grad():
        trainer.model.blocks[0].wq.weight[0, 0] = float("inf")
    with pytest.raises(FloatingPointError, match=r"step 5: model.blocks.0.wq.weight has values that are not finite"):
        trainer.save()
    assert state(tmp_path)["step"] == 4
    resumed = Trainer(c, VOCAB, Pairs(), resume=True)
    assert resumed.run(progress=False)["step"] == 12


@pytest.mark.parametrize("how", ["note", "skip", "stop"])
def test_a_spike_is_told_and_learnt_from_or_not(tmp_path: Path, how: Any) -> None:
    """A document of a kind never seen before, after losses that hardly differ."""

    class Odd(Pairs):
        def sequences(self, indices: Sequence[int]) -> list[Tokens]:
            odd = Tokens.of([VOCAB.eos, *([VOCAB.text_start + 250] * 50), VOCAB.eos])
            return [odd if 40 < i < 45 else self.one(0) for i in indices]

    c = config(
        tmp_path, mask=MaskLaw(rate=0), windows=1, length=52, steps=14, sample_every=1, on_spike=how, spike_sigma=2.0,
        optim=OptimConfig(name="muon", lr=0.02, adam_lr=0.02, warmup=0),
    )  # fmt: skip
    trainer = Trainer(c, VOCAB, Odd())
    seen: dict[int, torch.Tensor] = {}

    def watch(trainer: Trainer) -> None:
        seen[trainer.step] = trainer.model.embed.weight.detach().clone()
        if trainer.step == 6:
            trainer.spikes.recent.extend([3.8, 4.2] * 50)

    if how == "stop":
        with pytest.raises(
            FloatingPointError, match=r"step \d+: the loss is .*, over .* \(1 documents, at positions 4"
        ):
            trainer.run(progress=False, callbacks=[watch])
        return
    trainer.run(progress=False, callbacks=[watch])
    notes = [r for r in records(tmp_path) if "spike" in r]
    assert notes and "over" in notes[0]["spike"] and {p for n in notes for p in n["positions"]} & {41, 42, 43, 44}
    for note in notes:
        same = torch.equal(seen[note["step"]], seen[note["step"] - 1])
        assert note["learnt"] == (not same) == (how == "note")


@pytest.mark.parametrize("how", ["note", "skip"])
def test_spikes_that_are_noted_never_end_a_run(tmp_path: Path, how: Any) -> None:
    """Every loss is over the limit, twenty steps long: noted and learnt from to the end, or ten skipped in a row."""

    def worse(trainer: Trainer) -> None:
        trainer.spikes.recent.clear()
        trainer.spikes.recent.extend([1e-3, 2e-3] * 50)

    c = config(tmp_path, steps=25, sample_every=1, on_spike=how)
    trainer = Trainer(c, VOCAB, Pairs())
    if how == "skip":
        with pytest.raises(FloatingPointError, match="step 11: the loss is .*, over"):
            trainer.run(progress=False, callbacks=[worse])
        return
    assert trainer.run(progress=False, callbacks=[worse])["step"] == 25
    notes = [r for r in records(tmp_path) if "spike" in r]
    assert [n["step"] for n in notes] == list(range(2, 26)) and all(n["learnt"] for n in notes)
    # Those that were noted are in no row: a run that goes on with "skip" begins to count.
    assert state(tmp_path)["spikes"]["row"] == 0 and state(tmp_path)["spikes"]["count"] == 24


def test_alone_no_other_process_is_gone(tmp_path: Path) -> None:
    def fail(trainer: Trainer) -> None:
        raise RuntimeError("the picture server: connection timeout")

    with pytest.raises(RuntimeError, match="^the picture server: connection timeout$"):
        Trainer(config(tmp_path, sample_every=1), VOCAB, Pairs()).run(progress=False, callbacks=[fail])
