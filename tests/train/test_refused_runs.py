"""What is refused writes nothing, one process writes to a run, and a run goes on with what it began with."""

from __future__ import annotations

import importlib
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from forks import python
from safetensors.torch import load_file, save_file

from cm3.data.kinds import DocumentData, StoreData, TaskData
from cm3.data.prepare import prepare
from cm3.errors import CheckpointError, Cm3Error, ConfigError, DiskError
from cm3.files import locked
from cm3.model import bundle as bundles
from cm3.model.decoder import DecoderConfig
from cm3.parallel import MeshConfig
from cm3.retrieval.pairs import PairsConfig
from cm3.runs.clip_run import ClipRun
from cm3.runs.export_run import export_run
from cm3.runs.image_tokenizer_run import ImageTokenizerRun
from cm3.runs.pretrain_run import PretrainRun
from cm3.scenes.scene_kinds import EmblemData, SceneData, SceneLessonData, ScenePairs
from cm3.sequence.mask import MaskLaw
from cm3.tokens.text import TextTokenizer
from cm3.train.checkpoint import last
from cm3.train.claim import LOCK, run_claimed
from cm3.train.image_sheet import write_sheet
from cm3.train.lora import LoraConfig
from cm3.train.optim import OptimConfig
from cm3.train.signals import Terminated, terminable
from cm3.train.track import Log

SIZE = tiny_model.SIZE


def image_run(out: Path, **changes: Any) -> ImageTokenizerRun:
    base = ImageTokenizerRun(
        vqgan=tiny_model.SHAPE, size=SIZE, batch=2, steps=2, warmup=1, out=str(out), log_every=1, sample_every=0,
        data=SceneData(),
    )  # fmt: skip
    return replace(base, **changes)


def clip_run(out: Path, **changes: Any) -> ClipRun:
    shape = PairsConfig(
        width=16, words=48, letter_dim=4, d_model=32, layers=1, heads=2, channels=(8, 16, 16), image_size=32
    )
    return replace(ClipRun(out=str(out), model=shape, steps=2, batch=4, data=ScenePairs(words=40)), **changes)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image tokenizer, a bundle and a store, as their commands leave them."""
    root = tmp_path_factory.mktemp("given")
    image_run(root / "image").run(progress=False)
    bundles.save(tiny_model.bundle(), root / "bundle")
    (root / "texts.jsonl").write_text("".join(f'{{"text": "a red circle, number {i}"}}\n' for i in range(30)))
    prepare([str(root / "texts.jsonl")], root / "store", root / "bundle")
    return root


def run_of(given: Path, out: Path, **changes: Any) -> PretrainRun:
    base = PretrainRun(
        out=str(out),
        model=tiny_model.bundle().decoder.config,
        mask=MaskLaw(box=0.5, columns=4),
        windows=1,
        length=160,
        steps=2,
        log_every=1,
        save_every=1,
        sample_every=0,
        init=str(given / "bundle"),
        image_size=SIZE,
        masks=16,
        data=StoreData((str(given / "store"),)),
    )
    return replace(base, **changes)


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file and folder below, hidden ones too."""
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else b"/" for p in sorted(root.rglob("*"))}


REFUSED: dict[str, Callable[[Path, Path], Any]] = {
    "no init": lambda g, o: run_of(g, o, init=str(g / "none")),
    "another shape": lambda g, o: run_of(g, o, model=DecoderConfig(d_model=16, layers=1, heads=2, context=160)),
    "no store": lambda g, o: run_of(g, o, data=StoreData((str(g / "none"),))),
    "no stores": lambda g, o: run_of(g, o, data=StoreData(())),
    "no neighbours": lambda g, o: run_of(g, o, data=StoreData((str(g / "store"),), neighbours=str(g / "none"))),
    "weights of another number": lambda g, o: run_of(g, o, data=StoreData((str(g / "store"),), weights=(1, 2))),
    "nothing held out": lambda g, o: run_of(g, o, validate_every=1),
    "another size": lambda g, o: run_of(g, o, image_size=2 * SIZE),
    "a size that does not divide": lambda g, o: run_of(g, o, image_size=SIZE + 1),
    "no image tokenizer": lambda g, o: run_of(g, o, init="", image_tokenizer=str(g / "none")),
    "another tokenizer's store": lambda g, o: run_of(g, o, init="", image_tokenizer=str(g / "image")),
    "adapters without a model": lambda g, o: run_of(
        g, o, init="", image_tokenizer=str(g / "image"), data=TaskData(()), lora=LoraConfig(rank=2)
    ),
    "tasks without a source": lambda g, o: run_of(g, o, data=TaskData(())),
    "tasks of no name": lambda g, o: run_of(g, o, tasks=("vqa2", "nope")),
    "tasks of no dataset": lambda g, o: run_of(g, o, data=TaskData((f"vqa2=vqa2:{g / 'none'}",))),
    "no photographs": lambda g, o: run_of(g, o, data=DocumentData((f"coco:{g / 'none'}",))),
    "no encoder": lambda g, o: run_of(g, o, data=EmblemData(encoder=str(g / "none"))),
    "a mesh of more": lambda g, o: run_of(g, o, mesh=MeshConfig(tp=2)),
    "an image tokenizer of nothing": lambda g, o: image_run(o, init=str(g / "none"), vqgan=tiny_model.SHAPE),
    "an image tokenizer of no pictures": lambda g, o: image_run(o, data=DocumentData((f"coco:{g / 'none'}",))),
    "a clip of no pictures": lambda g, o: clip_run(o, data=DocumentData((f"coco:{g / 'none'}",))),
    "a clip of no words": lambda g, o: clip_run(o, data=ScenePairs(words=0)),
    "a clip on no device": lambda g, o: clip_run(o, device="toaster"),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("resume", [False, True])
def test_what_is_refused_leaves_nothing(given: Path, tmp_path: Path, why: str, resume: bool) -> None:
    """In a new folder, and in one that holds files of somebody else."""
    for there in (False, True):
        if there:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "notes.txt").write_text("mine")
        before = snapshot(tmp_path)
        with pytest.raises(Cm3Error):
            REFUSED[why](given, tmp_path / "out").run(progress=False, resume=resume)
        assert snapshot(tmp_path) == before


def test_the_corrected_command_runs(given: Path, tmp_path: Path) -> None:
    """As many refusals as there are change nothing for the one that is right."""
    for why in ("another shape", "no store", "another size"):
        with pytest.raises(Cm3Error):
            REFUSED[why](given, tmp_path / "out").run(progress=False)
    assert run_of(given, tmp_path / "out").run(progress=False)["step"] == 2
    assert not list((tmp_path / "out").glob(".*"))


def test_ones_own_files_are_not_written_over(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "bundle").mkdir(parents=True)
    (out / "bundle" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files, which would be lost"):
        run_of(given, out).run(progress=False)
    shutil.rmtree(out / "bundle")
    TextTokenizer.train(["other words"] * 9, 280).save(out / "tokenizer.json")
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match="holds a tokenizer.json that is not this run's; delete it"):
        run_of(given, out).run(progress=False)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="file' is a file; give a folder"):
        run_of(given, tmp_path / "file" / "run").run(progress=False)
    (tmp_path / "file").unlink()
    assert snapshot(tmp_path) == before
    # What a run left that was killed before its first checkpoint is its own, and written anew.
    (out / "config.json").write_text("{}")
    assert run_of(given, out).run(progress=False)["step"] == 2


@pytest.mark.parametrize("kind", ["pretrain", "image", "clip"])
def test_one_process_writes_to_a_run(given: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    run = {"pretrain": run_of(given, out), "image": image_run(out), "clip": clip_run(out)}[kind]
    with locked(out / LOCK, "a run"):
        before = snapshot(tmp_path)
        with pytest.raises(ConfigError, match="run in '.*out': another process is writing to it; wait until it ends"):
            run.run(progress=False)
        assert snapshot(tmp_path) == before
    assert not out.exists()


def test_two_that_start_at_once_are_one(given: Path, tmp_path: Path) -> None:
    """Both have read that there is no run; the second comes to write when the first has ended."""
    run = run_of(given, tmp_path / "out")
    claim, real = "cm3.runs.pretrain_run.run_claimed", run_claimed
    with pytest.MonkeyPatch.context() as patch:

        def late(*args: Any) -> Any:
            patch.setattr(claim, real)
            run.run(progress=False)
            return real(*args)

        patch.setattr(claim, late)
        with pytest.raises(ConfigError, match="another process went on with it meanwhile; start again"):
            run.run(progress=False)
    assert run.run(progress=False, resume=True)["bundle"]


def test_a_run_goes_on_with_what_it_began_with(given: Path, tmp_path: Path) -> None:
    """The same path, and other content: stores and image tokenizers are known by what they hold."""
    root = Path(shutil.copytree(given, tmp_path / "given"))
    run = run_of(root, tmp_path / "out", steps=1)
    run.run(progress=False)
    shutil.rmtree(root / "store")
    (root / "texts.jsonl").write_text("".join(f'{{"text": "a blue star, number {i}"}}\n' for i in range(30)))
    prepare([str(root / "texts.jsonl")], root / "store", root / "bundle")
    before = snapshot(tmp_path / "out")
    with pytest.raises(CheckpointError, match="was made with other stores: what lies there now is not what the run"):
        replace(run, steps=2).run(progress=False, resume=True)
    assert snapshot(tmp_path / "out") == before
    # A store that only moved is the same.
    moved = replace(run, steps=2, data=StoreData((str(given / "store"),)))
    assert moved.run(progress=False, resume=True)["step"] == 2


def test_another_image_tokenizer_at_the_same_place_is_refused(given: Path, tmp_path: Path) -> None:
    root, out = Path(shutil.copytree(given / "image", tmp_path / "image")), tmp_path / "out"
    out.mkdir()
    shutil.copyfile(tiny_model.tokenizer_path(), out / "tokenizer.json")
    run = PretrainRun(
        out=str(out), model=DecoderConfig(d_model=16, layers=1, heads=2, context=160, positions="rope"), windows=1,
        length=160, steps=1, sample_every=0, image_tokenizer=str(root), image_size=SIZE, masks=16,
        data=SceneData(),
    )  # fmt: skip
    run.run(progress=False)
    weights = load_file(root / "image_tokenizer.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] * 2}, root / "image_tokenizer.safetensors")
    for again in (
        lambda: replace(run, steps=2).run(progress=False, resume=True),
        lambda: export_run(out, tmp_path / "b"),
    ):
        with pytest.raises(CheckpointError, match="other image tokenizer|image tokenizer .* is not the one"):
            again()
    assert not (tmp_path / "b").exists()
    save_file(weights, root / "image_tokenizer.safetensors")
    assert export_run(out, tmp_path / "b") == 1
    assert replace(run, steps=2).run(progress=False, resume=True)["step"] == 2


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may become larger than that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line(given: Path, tmp_path: Path) -> None:
    """In the log, in what is trained, in a checkpoint and in a sheet."""
    told = "no space is left on the disk; make room, or choose another place"
    log = Log(tmp_path / "log.jsonl", 0)
    log.write({"step": 1})
    with small_disk(20), pytest.raises(DiskError, match=f"log.jsonl': {told}"):
        log.write({"step": 2, "loss": 0.123456789})
    with small_disk(100), pytest.raises(DiskError, match=f"tokenizer.json': {told}"):
        run_of(given, tmp_path / "a").run(progress=False)
    with small_disk(4000), pytest.raises(CheckpointError, match="00000002': can not be written .*the disk is full"):
        image_run(tmp_path / "b").run(progress=False)
    with small_disk(400), pytest.raises(DiskError, match=f"run.json': {told}"):
        clip_run(tmp_path / "c").run(progress=False)
    picture = torch.rand(4, 3, 64, 64)
    with small_disk(1000), pytest.raises(DiskError, match=f"sheet.png': {told}"):
        write_sheet(tmp_path / "sheet.png", picture, picture)
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("seed", [-1, 2**63, 10**400], ids=["negative", "over", "long"])
def test_seeds_are_those_that_can_be_drawn_from(tmp_path: Path, seed: int) -> None:
    """Of every kind of run, and of the data in it."""
    run = PretrainRun(out=str(tmp_path / "a"), model=DecoderConfig())
    for make, name in (
        (lambda: replace(run, seed=seed), "seed"),
        (lambda: replace(run, data=SceneData(seed=seed)), "data.seed"),
        (lambda: replace(run, data=SceneLessonData(plain=SceneData(seed=seed))), "data.plain.seed"),
        (lambda: image_run(tmp_path / "b", data=SceneData(seed=seed)), "image_tokenizer.data.seed"),
        (lambda: ClipRun(out="c", data=ScenePairs(seed=seed)), "clip.data.seed"),
    ):
        with pytest.raises(ConfigError, match=rf"^{name}=-?\d+: must be in 0..2\*\*63 - 1$"):
            make()
    with pytest.raises(ConfigError, match="clip.lr=nan: must be a finite number"):
        ClipRun(out="c", lr=float("nan"))
    with pytest.raises(ConfigError, match=r"clip.betas=\(-0.1, 0.9\): must each be from 0 to under 1"):
        ClipRun(out="c", betas=(-0.1, 0.9))
    with pytest.raises(ConfigError, match=r"^optim.betas=\(0.9, 1.5\): must each be from 0 to under 1$"):
        replace(run, optim=OptimConfig(betas=(0.9, 1.5)))


def test_sigterm_in_the_middle_of_an_import_comes_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of torch in C++ end the process where an exception comes through them."""
    (tmp_path / "imported.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.01)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    with pytest.raises(Terminated, match="SIGTERM"), terminable():
        found.append(importlib.import_module("imported"))
        time.sleep(30)
    assert found[0].whole


CODE = """
import sys; sys.path[:0] = {path!r}
from pathlib import Path
import cm3.cli.main as entry, cm3.runs.pretrain_run as runs, cm3.data.kinds as kinds, os, signal, time
def stop(*a, **k):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
{where} = stop
print("exit", entry.main({words!r}))
"""


@pytest.mark.parametrize(
    ("where", "made"),
    [
        ("runs.tokenizer_of", False),
        ("kinds.Store.open", False),
        ("kinds.fingerprint", False),
        ("runs.bundles.save", True),
    ],
)
def test_sigterm_outside_of_the_steps_is_one_line(given: Path, tmp_path: Path, where: str, made: bool) -> None:
    """While things are set up, data is opened or looked through, or the bundle is written."""
    (tmp_path / "recipe.py").write_text(
        "import sys; sys.path[:0] = " + repr(sys.path) + "\n"
        "from pathlib import Path\nimport test_refused_runs as t\n"
        f"def run() -> object:\n    return t.run_of(Path({str(given)!r}), Path({str(tmp_path / 'out')!r}))\n"
    )
    words = ["train", str(tmp_path / "recipe.py:run")]
    code = CODE.format(path=sys.path, where=where, words=words)
    ran = python("-c", code, timeout=100)
    lines = [line for line in ran.stderr.splitlines() if "step" not in line or line.startswith("cm3:")]
    assert ran.stdout.splitlines()[-1] == "exit 75", ran.stderr
    assert [line for line in lines if line.startswith("cm3:")] == [lines[-1]] and "Traceback" not in ran.stderr
    assert lines[-1].startswith("cm3: stopped by SIGTERM")
    assert (tmp_path / "out").exists() == made and not list((tmp_path / "out").glob(".*"))
    again = run_of(given, tmp_path / "out").run(progress=False, resume=True)
    assert last(tmp_path / "out") == 2 and Path(again["bundle"]).is_dir()
