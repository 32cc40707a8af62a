"""Training in bfloat16, forced: it follows float32, its weights are float32, and it resumes to the bit."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from PIL import Image
from small_run import MODEL, VOCAB, Others, Pairs, config, records, same_bits, weights

from cm3 import precision
from cm3.errors import ConfigError
from cm3.model.attention import Blocked
from cm3.model.decoder import Decoder
from cm3.parallel import HalfCopy, Mesh, ShardConfig
from cm3.retrieval.pairs import Pair, PairsConfig
from cm3.train.clip_trainer import PairTrainConfig, PairTrainer
from cm3.train.config import LoopConfig
from cm3.train.image_tokenizer import ImageTokenizerConfig, ImageTokenizerTrainer
from cm3.train.loop import Loop
from cm3.train.lora import LoraConfig
from cm3.train.optim import OptimConfig
from cm3.train.trainer import Trainer

sys.path.append(str(Path(__file__).parents[1] / "parallel"))

from processes import Crew, joined  # noqa: E402

ADAMW = OptimConfig(lr=1e-2, warmup=2, eps=1e-3)
"""A large eps: gradients that are only rounding would else move weights as far as any."""
MUON = OptimConfig(name="muon", lr=1e-2, adam_lr=1e-2, warmup=2)
SHAPE = replace(MODEL, d_model=32, layers=2, qk_norm=True)
PIXELS = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
COLOURS = {"red": (200, 0, 0), "green": (0, 180, 0), "blue": (0, 0, 220), "white": (250, 250, 250)}
PAIRS = [Pair(name, Image.new("RGB", (32, 32), rgb), f"a {name}") for name, rgb in COLOURS.items()]


def alone() -> Mesh:
    return Mesh((1, 1, 1), 0, torch.device("cpu"), None)


def run(out: Path, stop: int = 10**9, resume: bool = False, **changes: Any) -> Trainer:
    trainer = Trainer(config(out, model=SHAPE, **changes), VOCAB, Pairs(), resume=resume, validation=Others())
    trainer.run(progress=False, stopping=lambda step: step >= stop)
    return trainer


@pytest.mark.parametrize("optim", [ADAMW, MUON], ids=["adamw", "muon"])
def test_a_language_model_follows_float32_and_keeps_its_weights_in_it(tmp_path: Path, optim: OptimConfig) -> None:
    exact, half = (
        run(tmp_path / dtype, dtype=dtype, optim=optim, steps=30, validate_every=15) for dtype in precision.TRAINED[1:]
    )
    found, wanted = records(tmp_path / "bfloat16"), records(tmp_path / "float32")
    assert wanted[-2]["loss"] < wanted[0]["loss"] - 1, "it learns, or to be close says little"
    assert [line.keys() for line in found] == [line.keys() for line in wanted]
    names = ("loss", "loss_image", "val_loss", "loss_at_4", "output_norm")
    for a, b in zip(found, wanted, strict=True):
        assert [a[n] for n in names if n in b] == pytest.approx([b[n] for n in names if n in b], abs=0.15)
    assert found != wanted
    kinds = {t.dtype for name, t in weights(tmp_path / "bfloat16").items() if name != "rng"}
    assert kinds == {torch.float32} == {p.dtype for p in half.model.parameters()}
    # As fine as float32 has them: steps smaller than bfloat16 could add are not lost.
    moved = torch.cat([p.detach().flatten() for p in half.model.parameters()])
    assert not torch.equal(moved, moved.bfloat16().float())
    assert half.whole() is half.model and exact.dtype == torch.float32 and half.dtype == torch.bfloat16


@pytest.mark.parametrize("optim", [ADAMW, MUON], ids=["adamw", "muon"])
def test_a_resumed_run_is_one_that_never_stopped(tmp_path: Path, optim: OptimConfig) -> None:
    changes: dict[str, Any] = {"dtype": "bfloat16", "optim": optim, "validate_every": 3}
    run(tmp_path / "one", **changes)
    run(tmp_path / "two", stop=5, **changes)
    run(tmp_path / "two", resume=True, **changes)
    assert same_bits(tmp_path / "one", tmp_path / "two")
    assert records(tmp_path / "one") == records(tmp_path / "two")


def test_a_run_goes_on_in_another_number_type_and_says_so(tmp_path: Path) -> None:
    run(tmp_path, stop=4)
    after = run(tmp_path, resume=True, dtype="bfloat16")
    assert after.step == 12
    assert {"step": 4, "changed": {"dtype": ["float32", "bfloat16"]}} in records(tmp_path)


def test_the_copy_is_the_model_in_bfloat16_and_gives_its_gradients(tmp_path: Path) -> None:
    """Each pass's gradients are exactly the copy's, and are added up in float32."""
    torch.manual_seed(2)
    masters = Decoder(SHAPE)
    with torch.no_grad():
        for p in masters.parameters():
            p.normal_(0, 0.2)
    half = HalfCopy(masters, alone(), ShardConfig())
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        masters.embed.weight.mul_(1.5)
    half.refresh()
    plain = copy.deepcopy(masters).bfloat16()
    sums = [torch.zeros_like(p) for p in masters.parameters()]
    for seed in range(3):
        ids = torch.randint(VOCAB.size, (2, 24), generator=torch.Generator().manual_seed(seed))
        positions = torch.arange(24).expand(2, -1)
        for model in (plain, half.model):
            hidden = model.hidden(ids, positions, Blocked((positions > 9).long()), ids % 5)
            model.head(hidden).float().logsumexp(-1).sum().backward()
        for total, p in zip(sums, plain.parameters(), strict=True):
            assert p.grad is not None
            total += p.grad.float()
        plain.zero_grad()
    for total, p, mine in zip(sums, masters.parameters(), half.model.parameters(), strict=True):
        assert p.grad is not None and p.grad.dtype == torch.float32 and mine.grad is None
        assert torch.equal(p.grad, total) and bool(total.any())


def test_passes_in_parts_have_the_same_losses(tmp_path: Path) -> None:
    run(tmp_path / "one", dtype="bfloat16", steps=6)
    run(tmp_path / "two", dtype="bfloat16", steps=6, micro=1)
    losses = [[line["loss"] for line in records(tmp_path / name)] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], abs=0.03)


def test_what_is_computed_twice_changes_no_bit(tmp_path: Path) -> None:
    run(tmp_path / "one", dtype="bfloat16", steps=6)
    run(tmp_path / "two", dtype="bfloat16", steps=6, shard=ShardConfig(activation_checkpointing="full"))
    assert same_bits(tmp_path / "one", tmp_path / "two")


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")
def test_adapters_learn_in_bfloat16_beside_a_model_that_stays(tmp_path: Path) -> None:
    torch.manual_seed(4)
    begun = Decoder(SHAPE).state_dict()
    found = {}
    for dtype in precision.TRAINED[1:]:
        c = config(tmp_path / dtype, model=SHAPE, lora=LoraConfig(rank=2), dtype=dtype)
        trainer = Trainer(c, VOCAB, Pairs(), weights=begun)
        trainer.run(progress=False)
        found[dtype] = [line["loss"] for line in records(tmp_path / dtype)]
        merged = trainer.whole()
        assert merged is not None
        changed = {n for n, p in merged.state_dict().items() if not torch.equal(p, begun[n])}
        assert changed and all(name.split(".")[2] in ("wq", "wk", "wv", "wo") for name in changed)
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.05) and found["bfloat16"] != found["float32"]


@pytest.mark.parametrize("made", [config, ImageTokenizerConfig, PairTrainConfig], ids=lambda made: made.__name__)
@pytest.mark.parametrize("name", ["float16", "float8", "", "bf16"])
def test_another_number_type_is_refused_in_a_line(made: Any, name: str) -> None:
    out = Path("x") if made is config else "x"
    with pytest.raises(ConfigError, match=rf"dtype='{name}': must be one of auto, float32, bfloat16$"):
        made(out=out, dtype=name)


@pytest.mark.parametrize(("times", "name"), [(6.7, "bfloat16"), (0.13, "float32")])
def test_auto_follows_the_probe_and_the_log_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float, name: str
) -> None:
    monkeypatch.setattr(precision, "emulates", lambda: False)
    monkeypatch.setattr(precision, "probed", lambda: times)
    trainer = Trainer(config(tmp_path / "auto", dtype="auto"), VOCAB, Pairs())
    assert trainer.run(progress=False)["dtype"] == name
    first, *lines = records(tmp_path / "auto")
    assert first == {"step": 0, "dtype": name, "why": precision.for_training("auto", torch.device("cpu")).why}
    Trainer(config(tmp_path / "set", dtype=name), VOCAB, Pairs()).run(progress=False)
    assert lines == records(tmp_path / "set") and same_bits(tmp_path / "auto", tmp_path / "set")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_image_tokenizer_follows_float32_and_resumes(tmp_path: Path, optimizer: str) -> None:
    def trained(name: str, stop: int, dtype: str, steps: int = 12) -> ImageTokenizerTrainer:
        c = ImageTokenizerConfig(
            out=str(tmp_path / name), vqgan=tiny_model.SHAPE, size=32, batch=4, steps=steps, warmup=2, log_every=1,
            sample_every=0, save_every=4, optimizer=optimizer, dtype=dtype, channels_last=True,
        )  # type: ignore[arg-type]  # fmt: skip
        trainer = ImageTokenizerTrainer(c, lambda step: PIXELS)
        trainer.run(progress=False, stopping=lambda step: step >= stop)
        return trainer

    trained("exact", 12, "float32")
    half = trained("half", 12, "bfloat16")
    trained("stopped", 5, "bfloat16")
    trained("stopped", 12, "bfloat16")
    assert same_bits(tmp_path / "half", tmp_path / "stopped")
    found, wanted = ([line["loss"] for line in records(tmp_path / name)] for name in ("half", "exact"))
    assert wanted[-1] < wanted[0] - 0.1 and found == pytest.approx(wanted, rel=0.1) and found != wanted
    assert {p.dtype for p in half.vqgan.parameters()} == {torch.float32}


def test_a_small_clip_follows_float32(tmp_path: Path) -> None:
    shape = PairsConfig(width=16, words=8, letter_dim=4, d_model=32, layers=1, heads=2, channels=(8, 16, 16))
    shape = replace(shape, image_size=32)
    found = []
    for dtype in precision.TRAINED[1:]:
        c = PairTrainConfig(
            str(tmp_path / dtype), model=shape, batch=4, steps=20, warmup=2, log_every=1, dtype=dtype
        )  # type: ignore[arg-type]  # fmt: skip
        trainer = PairTrainer(c, lambda step: PAIRS)
        trainer.run(progress=False)
        found.append([line["loss"] for line in records(tmp_path / dtype)])
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert found[0][-1] < found[0][0] - 0.5
    assert found[1] == pytest.approx(found[0], abs=0.2) and found[1] != found[0]


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    crew = Crew(2)
    yield crew
    crew.close()


def chosen(out: str, times: list[float]) -> tuple[str, str]:
    """The number type of a run on processes whose probes differ."""
    with joined() as mesh:
        precision.emulates, precision.probed = lambda: False, lambda: times[mesh.rank]  # type: ignore[assignment]
        found = Loop(LoopConfig(out=out), mesh=mesh).number_type
    return found.name, found.why


@pytest.mark.parametrize(
    ("times", "name"), [([7.0, 0.1], "float32"), ([0.1, 7.0], "float32"), ([7.0, 8.0], "bfloat16")]
)
def test_processes_of_unlike_machines_compute_alike(two: Crew, tmp_path: Path, times: list[float], name: str) -> None:
    a, b = two.call(chosen, str(tmp_path), times)
    assert a == b and a[0] == name


def sharded(out: str) -> None:
    with joined() as mesh:
        c = config(Path(out), model=SHAPE, dtype="bfloat16")
        Trainer(c, VOCAB, Pairs(), mesh=mesh, validation=Others()).run(progress=False)


def test_two_processes_have_the_losses_of_one_and_one_goes_on(two: Crew, tmp_path: Path) -> None:
    """FSDP casts in one case, and a copy passes in the other."""
    two.call(sharded, str(tmp_path / "two"))
    run(tmp_path / "one", dtype="bfloat16")
    found, wanted = ([line["loss"] for line in records(tmp_path / name)] for name in ("two", "one"))
    assert found == pytest.approx(wanted, abs=0.05)
    assert {t.dtype for n, t in weights(tmp_path / "two").items() if n != "rng"} == {torch.float32}
    assert run(tmp_path / "two", resume=True, dtype="bfloat16", steps=14).step == 14


def test_the_settings_of_a_run_name_the_type(tmp_path: Path) -> None:
    run(tmp_path, dtype="bfloat16", steps=1)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
