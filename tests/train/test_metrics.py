"""What a run is watched by, against plain sums; spikes; TensorBoard."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import MODEL, VOCAB, Pairs, config, records

from cm3.data.load import Loader
from cm3.errors import ConfigError
from cm3.model.attention import Blocked
from cm3.model.decoder import Decoder
from cm3.model.sizes import flops_per_token
from cm3.sequence.mask import MaskLaw
from cm3.train.gpus import GPUS
from cm3.train.metrics import memory, nats_by_place, peak_of
from cm3.train.spike import ENOUGH, HISTORY, IN_A_ROW, Spikes, named, packed
from cm3.train.trainer import Trainer

CPU = torch.device("cpu")


def test_losses_by_place_are_those_of_single_tokens() -> None:
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(300, 8, generator=g), torch.randn(50, 8, generator=g)
    targets, places = torch.randint(50, (300,), generator=g), torch.randint(1, 300, (300,), generator=g)
    places[:6] = torch.tensor([1, 3, 4, 15, 16, 256])
    found = nats_by_place(lambda h: h @ weight.T, hidden, targets, places, chunk=64)
    wanted = torch.zeros_like(found)
    for h, t, p in zip(hidden, targets, places.tolist(), strict=True):
        power = next(k for k in range(16) if 4**k <= p < 4 ** (k + 1))
        wanted[0, power] += float(-(h @ weight.T).log_softmax(0)[t])
        wanted[1, power] += 1
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert found[1].sum() == 300


def test_a_line_is_what_the_batches_of_its_steps_say(tmp_path: Path) -> None:
    c = config(tmp_path, log_every=3, steps=3, mask=MaskLaw(rate=0.5))
    trainer = Trainer(c, VOCAB, Pairs())
    reference = Decoder(MODEL)
    loader = iter(Loader(Pairs(), VOCAB, c.mask, windows=2, length=64, seed=3, longest=64))
    sums, counts, tokens, documents_seen, fill, norms = torch.zeros(3), torch.zeros(3), 0, 0, 0.0, []
    for _ in range(3):
        reference.load_state_dict(trainer.model.state_dict())
        batch, _ = next(loader)
        loss = trainer.loss(batch)
        sums, counts = sums + loss.sums, counts + loss.counts
        tokens, fill = tokens + int((batch.documents > 0).sum()), fill + batch.fill / 3
        documents_seen += int(batch.documents.max(axis=1).sum())
        loss.total.backward()
        norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in trainer.model.parameters())))  # type: ignore[union-attr]
        trainer.model.zero_grad()
        trainer.advance()
    # The last step's, before its update: what enters the last norm.
    seen: list[torch.Tensor] = []
    reference.norm.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    ids, cells, positions, documents, *_ = (torch.from_numpy(a) for a in batch)
    with torch.no_grad():
        reference.hidden(ids, positions, Blocked(documents), cells)
    line = trainer.summary()
    for i, name in enumerate(("text", "image", "special")):
        assert line[f"loss_{name}"] == pytest.approx(float(sums[i] / counts[i]), rel=1e-5)
    assert line["output_norm"] == pytest.approx(float(seen[0][documents > 0].square().mean().sqrt()), rel=1e-5)
    assert line["fill"] == pytest.approx(fill) and line["grad_norm"] == pytest.approx(max(norms), rel=1e-4)
    mean = round(tokens / documents_seen)
    assert line["gflop_per_s"] / line["tokens_per_s"] * 1e9 == pytest.approx(flops_per_token(MODEL, mean))
    assert 0 <= line["data_wait"] <= 1 and 0.05 < line["memory_gb"] < 100 and "truncated" not in line


def test_memory_grows_with_what_is_held() -> None:
    before = memory(CPU)
    held = torch.ones(30_000_000)
    assert memory(CPU) - before > 20_000_000 or before > 2 * held.nbytes


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H200", "h200"),
        ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA GeForce RTX 3060", ""),
    ],
)
def test_known_gpus_have_a_peak(name: str, gpu: str) -> None:
    assert peak_of(torch.device("cuda"), name) == (GPUS[gpu].tflops * 1e12 if gpu else 0)
    assert peak_of(CPU, name) == 0


def test_a_spike_is_far_over_the_losses_before_it() -> None:
    spikes = Spikes(6.0, learnt=False)
    losses = [2.0 + 0.1 * (-1) ** i for i in range(ENOUGH)]
    for loss in [50.0, *losses[1:]]:
        assert spikes.judge(loss, 1.0) == "", "too few losses before it to tell"
    spikes = Spikes(6.0, learnt=False)
    for loss in losses:
        assert spikes.judge(loss, 1.0) == ""
    assert spikes.limit == pytest.approx(2.6)
    assert spikes.judge(2.59, 1.0) == "" and spikes.judge(9.0, 1.0).startswith("the loss is 9, over 2.")
    assert (
        spikes.judge(math.nan, 1.0) == "the loss is nan" and spikes.judge(2.0, math.inf) == "the gradient norm is inf"
    )
    assert (spikes.count, spikes.row) == (3, 3) and 9.0 not in spikes.recent
    assert Spikes(6.0, False, spikes.state).state == spikes.state
    assert spikes.judge(2.0, 1.0) == "" and spikes.row == 0 and IN_A_ROW > 3
    learnt = Spikes(6.0, learnt=True, state=spikes.state)
    assert learnt.judge(9.0, 1.0) and learnt.recent[-1] == 9.0 and not learnt.judge(9.0, 1.0)
    for _ in range(2 * HISTORY):
        learnt.judge(3.0, 1.0)
    assert len(learnt.recent) == HISTORY and learnt.limit == 3.0
    assert Spikes(0.0, True, learnt.state).limit == math.inf


def test_documents_of_a_batch_are_named() -> None:
    loader = Loader(Pairs(), VOCAB, MaskLaw(), windows=3, length=64, seed=1)
    before, taken = loader.state, []
    for _, (_, after) in zip(range(20), loader, strict=False):
        taken += packed(before, after)
        before = after
    assert len(taken) == len(set(taken)) == loader.counts.documents
    assert named([3, 1, 2]) == "1, 2, 3" and named(range(15)).endswith("10, 11 and 3 more")


def test_tensorboard_has_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Trainer(config(tmp_path, track="tensorboard"), VOCAB, Pairs()).run(progress=False)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("loss", "loss_image", "grad_norm"):
        points, lines = events.Scalars(name), records(tmp_path)
        assert [p.step for p in points] == [r["step"] for r in lines]
        assert [p.value for p in points] == pytest.approx([r[name] for r in lines], rel=1e-5)


def test_wandb_has_the_log_and_resumes_as_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    seen: list[dict[str, float]] = []
    log = wandb.Run.log
    monkeypatch.setattr(wandb.Run, "log", lambda run, data, **more: (seen.append(data), log(run, data, **more))[1])
    Trainer(config(tmp_path, steps=4, track="wandb"), VOCAB, Pairs()).run(progress=False)
    known = (tmp_path / "wandb.id").read_text().strip()
    Trainer(config(tmp_path, steps=6, track="wandb"), VOCAB, Pairs(), resume=True).run(progress=False)
    assert (tmp_path / "wandb.id").read_text().strip() == known
    assert [r["step"] for r in seen if "loss" in r] == list(range(1, 7))
    assert [r["loss"] for r in seen if "loss" in r] == [r["loss"] for r in records(tmp_path) if "loss" in r]
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{known}/run-{known}.wandb"))) == 2


@pytest.mark.parametrize(
    ("track", "module", "told"),
    [
        ("tensorboard", "torch.utils.tensorboard", "needs TensorBoard, .* not installed: pip install tensorboard"),
        ("wandb", "wandb", "needs wandb, which is not installed: pip install wandb"),
    ],
)
def test_without_its_library_a_tracker_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, track: Any, module: str, told: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=told):
        Trainer(config(tmp_path, track=track), VOCAB, Pairs()).run(progress=False)
