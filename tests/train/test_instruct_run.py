"""Instruction tuning: the paper's Table 4 at full size, and a bundle that becomes a tuned bundle at the smallest."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_model
import torch
from safetensors.torch import save_file

from cm3.cli.recipe import find
from cm3.data.kinds import TaskData
from cm3.errors import ConfigError, DataError
from cm3.generate import CM3Leon
from cm3.model import bundle as bundles
from cm3.model.decoder import Decoder
from cm3.runs.export_run import export_run
from cm3.runs.pretrain_run import PretrainRun
from cm3.scenes.data.lessons import SceneTaskMix
from cm3.scenes.scene_kinds import SceneData, SceneLessonData
from cm3.sequence.mask import MaskLaw
from cm3.tasks import TASKS
from cm3.train.optim import OptimConfig
from cm3.train.planner import plan

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_mini"


def recipe(spec: str) -> PretrainRun:
    found = find(f"{RECIPES / spec}")()
    assert isinstance(found, PretrainRun)
    return found


@pytest.mark.parametrize(("name", "gpus", "hours"), [("cm3leon_760m", 64, 118), ("cm3leon_7b", 128, 916)])
def test_a_recipe_is_the_papers(name: str, gpus: int, hours: float) -> None:
    """Table 4, on the paper's number of GPUs of 80 GB."""
    run, before = recipe(f"instruct.py:{name}"), recipe(f"pretrain.py:{name}")
    assert (run.optim.lr, run.optim.warmup, run.model.context) == (5e-5, 150, 4096)
    assert run.windows * run.length == 2**21 and run.steps * 2**21 == pytest.approx(30e9, rel=1e-4)
    assert run.windows % gpus == 0 and run.model == before.model and run.mask == before.mask
    assert isinstance(run.data, TaskData) and (run.data.up, run.data.down) == (3, 0.3)
    assert {source.partition("=")[0] for source in run.data.sources} <= set(TASKS)
    found = plan(run, gpus)
    assert found.memory.total < 80e9 and found.time.gpu_hours == pytest.approx(hours, rel=0.02)
    assert f"price: {hours} H100 hours" in (find(f"{RECIPES}/instruct.py:{name}").__doc__ or "")
    with torch.device("meta"):
        assert Decoder(run.model).embed.weight.shape[0] == 65_536


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to start from."""
    folder = tmp_path_factory.mktemp("base") / "bundle"
    bundles.save(tiny_model.bundle(), folder, torch.float32)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> TaskData:
    """Questions about three pictures."""
    rng, lines = np.random.default_rng(0), []
    for i in range(3):
        PIL.Image.fromarray(rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        lines.append({"question": f"what is {i}?", "answer": f"it is {i}", "image": f"{i}.png", "ocr_content": "A"})
    (tmp_path / "all.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return TaskData((f"vqa2=jsonl:{tmp_path}/all.jsonl", f"write=jsonl:{tmp_path}/all.jsonl"), weights={"vqa2": 0.75})


def tuned(base: Path, out: Path, data: Any, **changes: Any) -> PretrainRun:
    shape = bundles.load(base).decoder.config
    run = PretrainRun(
        out=str(out), init=str(base), model=shape, mask=MaskLaw(), windows=2, length=160, steps=3, log_every=1,
        save_every=1, sample_every=0, image_size=tiny_model.SIZE, masks=16, data=data,
    )  # fmt: skip
    return replace(run, **changes)


def test_a_bundle_becomes_a_tuned_bundle(base: Path, data: TaskData, tmp_path: Path) -> None:
    record = tuned(base, tmp_path / "out", data).run(progress=False)
    model = CM3Leon.load(record["bundle"])
    assert model.tasks == ("vqa2", "write")
    mixture = record["mixture"]
    assert mixture == model.bundle.about["mixture"]
    assert mixture["vqa2"]["share"] == 0.75 and abs(mixture["vqa2"]["realised"] - 0.75) < 0.2
    assert mixture["vqa2"]["documents"] == 3 and mixture["vqa2"]["epochs"] > 1
    before = bundles.load(base)
    assert any(not torch.equal(v, before.decoder.state_dict()[k]) for k, v in model.decoder.state_dict().items())
    assert model.bundle.text_tokenizer.read_bytes() == before.text_tokenizer.read_bytes()
    # The same of a checkpoint of it.
    export_run(tmp_path / "out", tmp_path / "last")
    assert bundles.load(tmp_path / "last").about == model.bundle.about
    assert export_run(tmp_path / "out", tmp_path / "early", step=2) == 2
    assert bundles.load(tmp_path / "early").about["tasks"] == ["vqa2", "write"]


def test_a_bundle_with_reserved_ids_is_tuned(data: TaskData, tmp_path: Path) -> None:
    """It says all that it is: nothing of its model, vocabulary, masks or pictures is given again."""
    made = tiny_model.bundle()
    vocab = replace(made.vocab, reserved=5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = Decoder(replace(made.decoder.config, vocab_size=vocab.size))
    bundles.save(replace(made, vocab=vocab, decoder=decoder), tmp_path / "base", torch.float32)
    run = PretrainRun(
        out=str(tmp_path / "out"), init=str(tmp_path / "base"), windows=2, length=160, steps=2, log_every=1,
        sample_every=0, validate_every=2, validate_batches=1, data=replace(data, holdout=0.4),
    )  # fmt: skip
    record = run.run(progress=False)
    tuned_model = bundles.load(record["bundle"])
    assert tuned_model.vocab == vocab and tuned_model.decoder.config == decoder.config
    assert tuned_model.image_size == tiny_model.SIZE and record["val_loss"] > 0
    assert sum(one["documents"] for one in record["mixture"].values()) < 6, "some of three pictures are held out"


def test_a_tuning_run_that_stopped_goes_on(base: Path, data: TaskData, tmp_path: Path) -> None:
    # A rate that does not depend on how long the run is.
    flat = {"optim": OptimConfig(lr=1e-3, warmup=0, decay_from=1.0)}
    whole = tuned(base, tmp_path / "whole", data, steps=4, **flat).run(progress=False)
    tuned(base, tmp_path / "half", data, steps=2, **flat).run(progress=False)
    half = tuned(base, tmp_path / "half", data, steps=4, **flat).run(progress=False, resume=True)
    assert half["loss"] == whole["loss"] and half["mixture"] == whole["mixture"]


def test_scene_tasks_are_a_kind_of_data(base: Path, tmp_path: Path) -> None:
    mix = SceneTaskMix(**{name: 0.0 for name in TASKS if hasattr(SceneTaskMix, name)} | {"vqa2": 1.0, "plain": 1.0})
    run = tuned(
        base, tmp_path, SceneLessonData(mix=mix, plain=SceneData(seed=3)), validate_every=2, validate_batches=1,
        tasks=("vqa2",), length=200, windows=1,
    )  # fmt: skip
    record = run.run(progress=False)
    assert record["val_loss"] > 0 and CM3Leon.load(record["bundle"]).tasks == ("vqa2",)


def test_the_recipe_of_scene_tasks_is_complete() -> None:
    run = recipe("scene_tasks.py:instruct")
    assert isinstance(run.data, SceneLessonData)
    shares = run.data.mix.shares
    assert {name for name, share in shares.items() if share > 0} - {"plain"} == set(run.tasks)
    assert run.length == run.model.context == 512 and dataclasses.asdict(run)["data"]["law"]["rest"] == 0


def test_what_is_wrong_is_told_before_training(base: Path, data: TaskData, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "none.jsonl").write_text("")
    run = tuned(base, out, data, image_tokenizer=str(_image_tokenizer(tmp_path)))
    cases: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
        ({"data": TaskData((f"vqa2=jsonl:{tmp_path}/none.jsonl",))}, DataError, "source 'vqa2' is empty"),
        ({"data": replace(data, weights={"vqa2": 0.0, "write": 0.0})}, ConfigError, "sum to nothing"),
        ({"init": ""}, ConfigError, "TaskData brings no words for a text tokenizer; give init, a bundle"),
    )
    for changes, error, message in cases:
        with pytest.raises(error, match=message):
            replace(run, **changes).run(progress=False)
        assert not (out / "checkpoints").exists() and not (out / "log.jsonl").exists()


def _image_tokenizer(folder: Path) -> Path:
    """What an image tokenizer run writes."""
    tokens = folder / "tokens"
    tokens.mkdir()
    (tokens / "config.json").write_text(json.dumps({"vqgan": dataclasses.asdict(tiny_model.SHAPE), "size": 32}))
    weights = {name: value.contiguous() for name, value in tiny_model.vqgan().state_dict().items()}
    save_file(weights, tokens / "image_tokenizer.safetensors")
    return tokens


@pytest.mark.skipif(not MINI.is_dir(), reason="no COCO pictures beside the checkout")
def test_some_real_steps_on_photographs(base: Path, tmp_path: Path) -> None:
    names = ("boxes", "coco_captions", "pose")
    data = TaskData(tuple(f"{name}=coco:{MINI}@val2017" for name in names), balanced=True)
    record = tuned(base, tmp_path, data, steps=2, windows=2, length=640).run(progress=False)
    assert set(record["mixture"]) == set(names) and record["mixture"]["coco_captions"]["share"] == 0.5
    assert CM3Leon.load(record["bundle"]).tasks == names
