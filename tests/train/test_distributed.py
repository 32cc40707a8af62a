"""Training on two processes: the losses of one, checkpoints that go from two to one and back, errors on every rank."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from small_run import VOCAB, Others, Pairs, config, records

from cm3.errors import Cm3Error
from cm3.model import bundle as bundles
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.parallel import MeshConfig, start
from cm3.runs.pretrain_run import PretrainRun
from cm3.scenes.scene_kinds import SceneData
from cm3.sequence.mask import MaskLaw
from cm3.train import checkpoint
from cm3.train.checkpoint import Checkpoints
from cm3.train.lora import LoraConfig
from cm3.train.optim import OptimConfig
from cm3.train.trainer import TrainConfig, Trainer
from cm3.vocab import Tokens

sys.path.append(str(Path(__file__).parents[1] / "parallel"))

from processes import Crew, joined  # noqa: E402

pytestmark = pytest.mark.timeout(400)  # seconds where there are two idle cores; they wait for each other where not
STEPS = 20
SIZES: dict[str, dict[str, int]] = {"fsdp": {"dp_shard": 2}, "tp": {"tp": 2}}
COPIES = {"copies": {"dp_replicate": 2}}
"""Summed between whole copies after the last of several passes alone."""


@pytest.fixture(scope="module")
def two() -> Iterator[Crew]:
    crew = Crew(2)
    yield crew
    crew.close()


def settings(out: str, **changes: Any) -> TrainConfig:
    """A large eps: gradients that are only rounding would else move weights as far as any."""
    model = DecoderConfig(
        vocab_size=VOCAB.size, d_model=32, layers=2, heads=2, context=64, positions="rope", grid=(2, 2), init_std=0.05,
        qk_norm=True,
    )  # fmt: skip
    optim = OptimConfig(lr=1e-2, warmup=2, eps=1e-3, name=changes.pop("optimizer", "adamw"))
    base: dict[str, Any] = {
        "model": model,
        "optim": optim,
        "windows": 4,
        "steps": STEPS,
        "save_every": 7,
        "z_loss": 1e-3,
    }
    return config(Path(out), **(base | changes))


def run_on(sizes: dict[str, int], out: str, changes: dict[str, Any], resume: bool = False) -> dict[str, Any]:
    """A run on the processes that call it, or on one where `sizes` is empty."""
    c = settings(out, **changes)
    if not sizes:
        return Trainer(c, VOCAB, Pairs(), resume=resume, validation=Others()).run(progress=False)
    with joined(**sizes) as mesh:
        return Trainer(c, VOCAB, Pairs(), resume=resume, mesh=mesh, validation=Others()).run(progress=False)


def agree(found: list[dict[str, float]], wanted: list[dict[str, float]]) -> None:
    """Losses of all kinds, and norms, line by line."""
    assert [r["step"] for r in found] == [r["step"] for r in wanted]
    for a, b in zip(found, wanted, strict=True):
        for name in ("loss", "loss_text", "loss_image", "loss_at_1", "loss_at_4", "val_loss", "fill"):
            assert (name in a) == (name in b)
            assert a.get(name, 0) == pytest.approx(b.get(name, 0), abs=1e-5), (a["step"], name)
        for name in ("grad_norm", "output_norm", "lr"):
            assert a.get(name, 0) == pytest.approx(b.get(name, 0), rel=1e-3), (a["step"], name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The log of an unbroken run of one process."""
    out = tmp_path_factory.mktemp("one")
    run_on({}, str(out), {"validate_every": 10})
    found = records(out)
    assert found[-2]["loss"] < found[0]["loss"] - 1, "it learns, or equality says little"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES | COPIES)
def test_two_processes_have_the_losses_of_one(
    two: Crew, whole: list[dict[str, float]], tmp_path: Path, name: str
) -> None:
    results = two.call(run_on, (SIZES | COPIES)[name], str(tmp_path), {"validate_every": 10, "micro": 1})
    agree(records(tmp_path), whole)
    assert all(r["loss"] == results[0]["loss"] and r["grad_norm"] == results[0]["grad_norm"] for r in results)


@pytest.mark.parametrize("name", SIZES)
def test_a_run_goes_from_two_processes_to_one_and_back(
    two: Crew, whole: list[dict[str, float]], tmp_path: Path, name: str
) -> None:
    changes: dict[str, Any] = {"validate_every": 10}
    out = str(tmp_path)
    two.call(stopped, SIZES[name], out, changes, 5)
    assert checkpoint.last(tmp_path) == 5
    stopped({}, out, changes, 12)
    assert checkpoint.last(tmp_path) == 12
    two.call(run_on, SIZES[name], out, changes, True)
    agree([r for r in records(tmp_path) if "changed" not in r], whole)


def stopped(sizes: dict[str, int], out: str, changes: dict[str, Any], step: int) -> None:
    """Go on, until a signal to the last process alone, at this step; all save and end."""

    def send(trainer: Trainer) -> None:
        if trainer.step == step and trainer.ranks.number == trainer.ranks.count - 1:
            os.kill(os.getpid(), 15)

    c = settings(out, sample_every=1, **changes)
    with start(MeshConfig(), "cpu") if not sizes else joined(**sizes) as mesh:
        record = Trainer(c, VOCAB, Pairs(), resume=True, mesh=mesh, validation=Others()).run(
            progress=False, callbacks=[send]
        )
    # Of two processes, or of one.
    signalled = os.environ.get("RANK") != "0"
    assert record["step"] == step and record["stopped"] == ("SIGTERM" if signalled else "another process")


def test_muon_takes_whole_matrices(two: Crew, tmp_path: Path) -> None:
    """Orthogonalising blows rounding up, so the losses agree less closely."""
    changes: dict[str, Any] = {"optimizer": "muon", "steps": 8}
    run_on({}, str(tmp_path / "one"), changes)
    two.call(run_on, SIZES["fsdp"], str(tmp_path / "two"), changes)
    losses = [[r["loss"] for r in records(tmp_path / name)] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3) and losses[0][-1] < losses[0][0] - 0.5


def adapted(sizes: dict[str, int], out: str) -> dict[str, torch.Tensor]:
    """A run of adapters beside a model whose branches do something; the merged weights, on the main process."""
    c = settings(out, lora=LoraConfig(rank=2, targets=("wq", "down")), steps=6)
    torch.manual_seed(1)
    begun = {name: 0.2 * torch.randn(p.shape) for name, p in Decoder(c.model).named_parameters()}
    with start(MeshConfig(), "cpu") if not sizes else joined(**sizes) as mesh:
        trainer = Trainer(c, VOCAB, Pairs(), mesh=mesh, weights=begun)
        trainer.run(progress=False)
        merged = trainer.whole()
    return {} if merged is None else {name: p.detach() for name, p in merged.named_parameters()}


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")
def test_adapters_learn_the_same_on_two_processes(two: Crew, tmp_path: Path) -> None:
    alone = adapted({}, str(tmp_path / "one"))
    main, other = two.call(adapted, SIZES["fsdp"], str(tmp_path / "two"))
    agree(records(tmp_path / "two"), records(tmp_path / "one"))
    assert not other and main.keys() == alone.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(main[name], weight, atol=1e-4, rtol=1e-4)


def from_a_bundle(init: str, out: str) -> None:
    """A run that begins with a bundle, whose decoder the main process alone reads.

    A model that is spread is gathered once, at the end; in one process a sheet is drawn on the way.
    """
    loaded: list[bool] = []
    gathered: list[int] = []
    whole = Trainer.whole
    load = bundles.load

    def watch(folder: Path, weights: bool = True) -> bundles.Bundle:
        loaded.append(weights)
        return load(folder, weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "load", watch)
        patch.setattr(Trainer, "whole", lambda trainer: gathered.append(trainer.step) or whole(trainer))
        PretrainRun(
            out=out, init=init, model=load(init).decoder.config, mask=MaskLaw(), windows=2, length=160, steps=2,
            sample_every=1, image_size=tiny_model.SIZE, masks=16, device="cpu", mesh=MeshConfig(timeout_s=90),
            optim=OptimConfig(lr=1e-3, warmup=0, eps=1e-3), data=SceneData(),
        ).run(progress=False)  # fmt: skip
    assert loaded == [os.environ.get("RANK", "0") == "0"]
    assert gathered == ([2] if "RANK" in os.environ else [1, 2]) and (Path(out) / "samples" / "0000002.png").exists()


def test_a_run_begins_with_a_bundle_on_two_processes(two: Crew, tmp_path: Path) -> None:
    bundles.save(tiny_model.bundle(), tmp_path / "init", torch.float32)
    from_a_bundle(str(tmp_path / "init"), str(tmp_path / "one"))
    two.call(from_a_bundle, str(tmp_path / "init"), str(tmp_path / "two"))
    one, both = (bundles.load(tmp_path / name / "bundle") for name in ("one", "two"))
    assert one.about | {"recipe": ""} == both.about | {"recipe": ""}
    for name, weight in one.decoder.state_dict().items():
        torch.testing.assert_close(both.decoder.state_dict()[name], weight, atol=1e-3, rtol=1e-2)


def split(out: str) -> str:
    """What is said of adapters with split matrices."""
    try:
        with joined(tp=2) as mesh:
            Trainer(settings(out, lora=LoraConfig(rank=2)), VOCAB, Pairs(), mesh=mesh, weights={})
    except Cm3Error as error:
        return str(error)
    return "accepted"


def test_adapters_are_not_split(two: Crew, tmp_path: Path) -> None:
    assert two.call(split, str(tmp_path)) == ["mesh.tp=2: adapters (lora.rank) are not split; give 1"] * 2


class Torn(Pairs):
    """A source that one process can not read at some point."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def sequences(self, indices: Sequence[int]) -> list[Tokens]:
        if self.rank == 1 and max(indices) > 400:
            raise Cm3Error("store 'x': shards/00003.safetensors is missing; restore it")
        return super().sequences(indices)


def refused(out: str, how: str) -> str:
    """What each process says."""
    try:
        with joined(dp_shard=2) as mesh:
            changes = {"seed": {"seed": 4}, "windows": {"windows": 5}}.get(how, {})
            source = Torn(mesh.rank) if how == "torn" else Pairs()
            Trainer(settings(out, **changes), VOCAB, source, resume=how != "torn", mesh=mesh).run(progress=False)
    except Cm3Error as error:
        return str(error)
    return "accepted"


def test_errors_are_told_by_every_process(two: Crew, tmp_path: Path) -> None:
    out = str(tmp_path)
    told = two.call(refused, out, "torn")
    assert all("shards/00003.safetensors is missing; restore it" in t for t in told) and told[0].startswith(
        "process 1:"
    )
    two.call(run_on, SIZES["fsdp"], str(tmp_path / "run"), {"steps": 8})
    told = two.call(refused, str(tmp_path / "run"), "seed")
    assert all("was made with seed=3, this run has 4" in t for t in told)
    told = two.call(refused, str(tmp_path / "new"), "windows")
    assert all("windows=5, rank" in t and "windows must be a multiple of the ranks" in t for t in told), told
    step = tmp_path / "run" / "checkpoints" / "00000008"
    shards = sorted(step.glob("*.safetensors"))
    assert len(shards) == 2
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    told = two.call(refused, str(tmp_path / "run"), "altered")
    assert all(f"{shards[1].name} was altered" in t and "to go on from step 7" in t for t in told), told
    shards[1].unlink()
    told = two.call(refused, str(tmp_path / "run"), "missing")
    assert all(f"{shards[1].name} is missing" in t for t in told), told


def full_disk(out: str) -> str:
    """A save where one process's disk is full."""
    import resource

    with joined(dp_shard=2) as mesh:
        checkpoints = Checkpoints(Path(out), mesh)
        checkpoints.save(1, {"a": torch.zeros(4)}, {})
        checkpoints.wait()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if mesh.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            checkpoints.save(2, {"a": torch.zeros(4000), "b": torch.zeros(4000)}, {})
            checkpoints.wait()
        except Cm3Error as error:
            return str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return "accepted"


def test_a_full_disk_of_one_process_is_told_by_all(two: Crew, tmp_path: Path) -> None:
    for told in two.call(full_disk, str(tmp_path)):
        assert "the disk is full" in told and "process 1" in told and "the one of step 1 is kept" in told
    assert os.listdir(tmp_path) == ["00000001"]


RECIPE = """
import os, signal
from dataclasses import dataclass
from test_distributed import settings
from small_run import Pairs, VOCAB
from cm3.train.trainer import TrainConfig, Trainer

@dataclass(frozen=True)
class Run(TrainConfig):
    die: int = 0
    def run(self, *, progress=True, resume=False):
        def die(trainer):
            first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
            if trainer.step == self.die and trainer.mesh.rank == 1 and first:
                os.kill(os.getpid(), signal.SIGKILL)
        fields = {f: getattr(self, f) for f in TrainConfig.__dataclass_fields__}
        return Trainer(TrainConfig(**fields), VOCAB, Pairs(), resume=resume).run(progress=progress, callbacks=[die])

def tiny():
    c = settings("run", sample_every=1)
    return Run(**{f: getattr(c, f) for f in TrainConfig.__dataclass_fields__})
"""


@pytest.mark.slow
def test_torchrun_trains_a_recipe_and_begins_again_where_a_rank_died(tmp_path: Path) -> None:
    """The others of a rank that dies say so and end; torchrun starts all again, and they go on."""
    (tmp_path / "recipe.py").write_text(RECIPE)
    here = Path(__file__).parent
    path = [str(here.parents[1]), str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    environment = {k: v for k, v in os.environ.items() if k != "RANK"} | {"PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", "-m", "cm3", "train", "recipe.py:tiny", "--die", "9", "--resume"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=380)
    assert ran.returncode == 0, ran.stderr
    # Unless torchrun ends it before it has noticed; and the save of step 7 may be under way still.
    told = re.search(
        "another process of this run is gone.* start all again with --resume, from step ([0-9]+)", ran.stderr
    )
    assert told is None or told[1] in ("0", "7")
    assert ran.stdout.count("step: 20") == 1, "one process tells"
    run_on({}, str(tmp_path / "one"), {})
    agree(records(tmp_path / "run"), records(tmp_path / "one"))


def test_settings_of_a_mesh_do_not_count_as_changed(tmp_path: Path) -> None:
    run_on({}, str(tmp_path), {"steps": 4})
    c = replace(settings(str(tmp_path), steps=4), mesh=MeshConfig(timeout_s=7), threads=1, keep=5)
    assert Trainer(c, VOCAB, Pairs(), resume=True).changed == {}
