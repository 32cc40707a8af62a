"""Runs that recipes return, at their smallest: tokenizer, model, bundle, and a model that generates."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_model
import torch
from safetensors.torch import save_file

from cm3.data.kinds import DocumentData, StoreData
from cm3.document import Gap, Image
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.generate import CM3Leon
from cm3.model import bundle as bundles
from cm3.model.decoder import DecoderConfig
from cm3.parallel import MeshConfig, start
from cm3.runs.export_run import export_run
from cm3.runs.image_tokenizer_run import ImageTokenizerRun
from cm3.runs.pretrain_run import PretrainRun
from cm3.scenes.scene_kinds import SceneData
from cm3.sequence.mask import MaskLaw
from cm3.tokens.text import TextTokenizer
from cm3.train import checkpoint
from cm3.train.checkpoint import Checkpoints
from cm3.train.image_tokenizer import load_image_tokenizer
from cm3.train.lora import LoraConfig
from cm3.train.optim import OptimConfig

SIZE = tiny_model.SIZE


def image_run(out: Path, **changes: Any) -> ImageTokenizerRun:
    base = ImageTokenizerRun(
        vqgan=tiny_model.SHAPE, size=SIZE, batch=2, steps=2, warmup=1, out=str(out), log_every=1, sample_every=0,
        data=SceneData(),
    )  # fmt: skip
    return replace(base, **changes)


def pretrain_run(out: Path, tokenizer: Path, **changes: Any) -> PretrainRun:
    base = PretrainRun(
        out=str(out),
        model=DecoderConfig(d_model=16, layers=1, heads=2, context=160, positions="rope"),
        mask=MaskLaw(box=0.5, columns=7),
        windows=1,
        length=160,
        steps=2,
        log_every=1,
        save_every=1,
        sample_every=0,
        image_tokenizer=str(tokenizer),
        image_size=SIZE,
        text_entries=300,
        masks=16,
        data=SceneData(),
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an image tokenizer run, as one would have left it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    image_run(folder).run(progress=False)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that has its text tokenizer already (training one takes seconds)."""
    shutil.copyfile(tiny_model.tokenizer_path(), tmp_path / "tokenizer.json")
    return tmp_path


@pytest.fixture
def coco(tmp_path: Path) -> DocumentData:
    """Three pictures, two captions each."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        noise = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        PIL.Image.fromarray(noise).save(root / "train2017" / f"{i}.png")
    content = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(3)],
        "annotations": [{"id": i, "image_id": i % 3, "caption": f"caption {i}"} for i in range(6)],
    }
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    return DocumentData((f"coco:{root}",), holdout=0.0)


def test_an_image_tokenizer_run_measures_itself(tokenizer: Path, tmp_path: Path) -> None:
    record = image_run(tmp_path / "a").run(progress=False)
    assert record["out"] == str(tmp_path / "a") and record["psnr_db"] > 0 and 0 < record["codes_used"] <= 1
    vqgan = load_image_tokenizer(tokenizer)
    assert vqgan.config == tiny_model.SHAPE and not vqgan.training
    # The same seed, the same bytes.
    again = load_image_tokenizer(tmp_path / "a").state_dict()
    assert all(torch.equal(v, again[k]) for k, v in vqgan.state_dict().items())


def test_scenes_become_a_model_that_generates(tokenizer: Path, out: Path) -> None:
    run = pretrain_run(out, tokenizer, sample_every=2, sampling={"image": {"temperature": 0.5}})
    record = run.run(progress=False)
    assert record["bundle"] == str(out / "bundle") and record["step"] == 2 and record["loss"] > 0
    with PIL.Image.open(out / "samples" / "0000002.png") as sheet:
        assert sheet.size == (8 * (SIZE + 4) - 4, 2 * (SIZE + 4) - 4)
    model = CM3Leon.load(record["bundle"])
    assert model.grid == (4, 4) == model.decoder.config.grid and model.image_size == SIZE
    assert model.decoder.config.vocab_size == model.vocab.size
    assert model.bundle.sampling == {"image": {"temperature": 0.5}} and model.bundle.about["steps"] == 2
    assert (
        model._request(model.codec.encode_prompt(model.generate("x").prompt), 0, 9, 1, {}).sampling.temperature == 0.5
    )
    picture = model.generate("a red circle", seed=1).image
    assert picture.size == (SIZE, SIZE)
    assert isinstance(model.generate(picture).text, str)
    assert model.generate(["a ", Gap(), " circle"]).text.startswith("a")
    assert model.generate(["a", Image(picture).with_gap((0, 0, 8, 16))]).image.size == (SIZE, SIZE)
    # The columns of the boxes are those of the grid, whatever the recipe said.
    assert json.loads((out / "config.json").read_text())["mask"]["columns"] == 4


def test_coco_becomes_a_model(tmp_path: Path, coco: DocumentData) -> None:
    record = image_run(tmp_path / "tokens", data=coco, batch=4).run(progress=False)
    assert record["psnr_db"] > 0
    run = pretrain_run(tmp_path / "run", tmp_path / "tokens", data=coco)
    model = CM3Leon.load(run.run(progress=False)["bundle"])
    assert model.codec.text.decode(model.codec.text.encode("caption 3")) == "caption 3"
    assert model.generate("caption 3").image.size == (SIZE, SIZE)


def test_a_pretraining_that_stopped_goes_on(tokenizer: Path, out: Path) -> None:
    whole = out / "whole"
    whole.mkdir()
    shutil.copyfile(out / "tokenizer.json", whole / "tokenizer.json")
    pretrain_run(whole, tokenizer, steps=4).run(progress=False)
    # Two steps of a schedule of four: what a kill after the second leaves.
    half = pretrain_run(out, tokenizer, steps=4, sample_every=2)

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cm3.runs.pretrain_run.draw_samples", kill)
        with pytest.raises(Killed):
            half.run(progress=False)
    assert checkpoint.last(out) == 2
    with pytest.raises(ConfigError, match="holds a run already; continue it with --resume, or give another --out"):
        half.run(progress=False)
    replace(half, sample_every=0).run(progress=False, resume=True)
    a, b = bundles.load(whole / "bundle"), bundles.load(out / "bundle")
    assert all(torch.equal(v, b.decoder.state_dict()[k]) for k, v in a.decoder.state_dict().items())


def test_resuming_before_the_first_checkpoint_is_a_start(tokenizer: Path, out: Path) -> None:
    assert pretrain_run(out, tokenizer).run(progress=False, resume=True)["step"] == 2


def test_a_folder_with_a_run_is_not_written_over(tokenizer: Path) -> None:
    before = {p.name: p.read_bytes() for p in tokenizer.iterdir() if p.is_file()}
    with pytest.raises(ConfigError, match="holds a run already; continue it with --resume, or give another --out"):
        image_run(tokenizer).run(progress=False)
    assert {p.name: p.read_bytes() for p in tokenizer.iterdir() if p.is_file()} == before


def test_without_an_image_tokenizer_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no image_tokenizer.safetensors; train one first with `cm3 train"):
        pretrain_run(tmp_path / "run", tmp_path / "nothing").run(progress=False)
    assert not (tmp_path / "run").exists()


def test_an_image_tokenizer_that_is_damaged_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    spoiled = Path(shutil.copytree(tokenizer, tmp_path / "copy"))
    (spoiled / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="config.json: vqgan: is null; must be an object"):
        load_image_tokenizer(spoiled)
    shutil.copyfile(tokenizer / "config.json", spoiled / "config.json")
    for content in (b"no tensors", None):
        if content is None:
            save_file({"x": torch.zeros(1)}, spoiled / "image_tokenizer.safetensors")
        else:
            (spoiled / "image_tokenizer.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match="image_tokenizer.safetensors"):
            load_image_tokenizer(spoiled)


def test_a_size_that_the_tokenizer_does_not_divide_is_refused(tokenizer: Path, out: Path) -> None:
    with pytest.raises(ConfigError, match="30.*8"):
        pretrain_run(out, tokenizer, image_size=30).run(progress=False)


@pytest.mark.parametrize("objects", [(1.0, 1.0), (0.0, 0.0, 0.0, 0.0), (1.0, -1.0, 0.0, 1.0)])
def test_shares_of_objects_are_checked(tmp_path: Path, objects: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="data.objects=.*: must be four shares, none negative"):
        image_run(tmp_path, data=SceneData(objects=objects)).run(progress=False)


def test_focus_takes_words_of_scenes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data.focus='smal': must be a size, colour or shape. Did you mean 'small'"):
        image_run(tmp_path, data=SceneData(focus=("smal",))).run(progress=False)
    for never in (("small", "large"), ("green", "star")):  # two sizes at once; a combination that is held out
        with pytest.raises(ConfigError, match="no training picture has such an object; give one word of a kind"):
            image_run(tmp_path / "-".join(never), data=SceneData(focus=never)).run(progress=False)
    run = image_run(tmp_path, data=SceneData(focus=("small", "star")))
    assert run.run(progress=False)["psnr_db"] > 0


def test_captions_that_are_not_there_are_refused(tokenizer: Path, out: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder; check the path"):
        pretrain_run(out, tokenizer, data=DocumentData((f"coco:{out / 'none'}",))).run(progress=False)


def test_a_run_starts_from_a_bundle(tokenizer: Path, tmp_path: Path) -> None:
    pretrain_run(tmp_path / "first", tokenizer).run(progress=False)
    first = tmp_path / "first" / "bundle"
    # So small a rate changes nothing that half precision could hold.
    still = OptimConfig(lr=1e-12, adam_lr=1e-12, weight_decay=0.0)
    pretrain_run(tmp_path / "second", tmp_path / "none", init=str(first), optim=still).run(progress=False)
    a, b = (CM3Leon.load(str(folder)) for folder in (first, tmp_path / "second" / "bundle"))
    for name, weight in a.decoder.state_dict().items():
        torch.testing.assert_close(b.decoder.state_dict()[name], weight, rtol=0, atol=1e-6)
    assert a.bundle.text_tokenizer.read_bytes() == b.bundle.text_tokenizer.read_bytes()
    other = pretrain_run(
        tmp_path / "third", tokenizer, init=str(first), model=DecoderConfig(d_model=8, layers=1, heads=2)
    )
    with pytest.raises(CheckpointError, match=r"is a model of another shape .d_model is 16, not 8.*leave model.. out"):
        other.run(progress=False)


def test_a_run_keeps_its_text_tokenizer_whatever_it_is_resumed_with(tokenizer: Path, out: Path, tmp_path: Path) -> None:
    first = str(pretrain_run(out, tokenizer, steps=1).run(progress=False)["bundle"])
    other = tmp_path / "other"
    other.mkdir()
    TextTokenizer.train(["some words of another kind"] * 9, 300).save(other / "tokenizer.json")
    second = str(pretrain_run(other, tokenizer, steps=1).run(progress=False)["bundle"])
    run = pretrain_run(tmp_path / "run", tokenizer, init=first, steps=1)
    run.run(progress=False)
    before = (tmp_path / "run" / "tokenizer.json").read_bytes()
    with pytest.raises(CheckpointError, match="other.*: has another text tokenizer than the run in .*; give the init"):
        replace(run, init=second, steps=2).run(progress=False, resume=True)
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == before
    assert replace(run, steps=2).run(progress=False, resume=True)["step"] == 2


def test_a_run_is_of_the_bundle_that_it_loaded(
    tokenizer: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another takes its place a moment after."""
    first = Path(pretrain_run(out, tokenizer, steps=1).run(progress=False)["bundle"])
    other = tmp_path / "other"
    other.mkdir()
    TextTokenizer.train(["some words of another kind"] * 9, 300).save(other / "tokenizer.json")
    second = Path(pretrain_run(other, tokenizer, steps=1).run(progress=False)["bundle"])
    weights, words = (
        hashlib.sha256((first / f).read_bytes()).hexdigest() for f in (bundles.FILES[0], "tokenizer.json")
    )
    load = bundles.load

    def replaced(folder: Path, weights: bool = True) -> bundles.Bundle:
        loaded = load(folder, weights)
        if folder == first and not (tmp_path / "aside").exists():
            first.rename(tmp_path / "aside")
            shutil.copytree(second, first)
        return loaded

    monkeypatch.setattr(bundles, "load", replaced)
    run = pretrain_run(tmp_path / "run", tokenizer, init=str(first), steps=1, lora=LoraConfig(rank=1))
    made = load(run.run(progress=False)["bundle"])
    assert (tmp_path / "aside").exists() and hashlib.sha256(made.text_bytes()).hexdigest() == words
    saved = Checkpoints(tmp_path / "run" / "checkpoints", start(MeshConfig(), "cpu")).read(None)[1]["config"]
    assert saved["base"] == weights and saved["given"]["text_tokenizer"] == words
    with pytest.raises(CheckpointError, match="is not the model that the adapters of this run stand beside"):
        export_run(tmp_path / "run", tmp_path / "exported")


def test_the_image_tokenizer_of_a_bundle_is_redrawn(tokenizer: Path, tmp_path: Path) -> None:
    """The model goes on with another tokenizer of the same codes, in its bundle and in what is exported."""
    first = str(pretrain_run(tmp_path / "first", tokenizer, steps=1).run(progress=False)["bundle"])
    other = tmp_path / "other"
    image_run(other, steps=1).run(progress=False)
    begun = pretrain_run(tmp_path / "run", tokenizer, init=first, replace_image_tokenizer=str(other), steps=1)
    made = bundles.load(begun.run(progress=False)["bundle"]).vqgan.state_dict()
    export_run(tmp_path / "run", tmp_path / "exported")
    exported = bundles.load(tmp_path / "exported").vqgan.state_dict()
    for name, wanted in load_image_tokenizer(other).state_dict().items():
        assert torch.equal(made[name], exported[name]) and torch.equal(made[name], wanted.half().to(made[name].dtype))
    few = tmp_path / "few"
    image_run(few, vqgan=replace(tiny_model.SHAPE, codes=16, levels=(4, 4)), steps=1).run(progress=False)
    with pytest.raises(CheckpointError, match="replace_image_tokenizer=.*has 16 codes, and that of init has"):
        pretrain_run(tmp_path / "no", tokenizer, init=first, replace_image_tokenizer=str(few)).run(progress=False)


def test_a_run_is_exported_from_its_checkpoints(tokenizer: Path, out: Path, tmp_path: Path) -> None:
    run = pretrain_run(out, tokenizer, steps=3, keep=3, sampling={"image": {"temperature": 0.5}})
    run.run(progress=False)
    assert export_run(out, tmp_path / "last") == 3
    # What the run itself wrote at its end.
    for path in (out / "bundle").iterdir():
        assert (tmp_path / "last" / path.name).read_bytes() == path.read_bytes(), path.name
    assert export_run(out, tmp_path / "first", step=1, dtype=torch.float32) == 1
    first, last = bundles.load(tmp_path / "first"), bundles.load(tmp_path / "last")
    assert first.about["steps"] == 1 and not torch.equal(first.decoder.embed.weight, last.decoder.embed.weight)
    with pytest.raises(CheckpointError, match="there is none of step 9, but of 1, 2, 3"):
        export_run(out, tmp_path / "none", step=9)
    with pytest.raises(CheckpointError, match="config.json is not that of a pretraining run .*; give the folder that"):
        export_run(tmp_path / "nothing", tmp_path / "none")
    config = json.loads((out / "config.json").read_text())
    for page in ("[" * 100_000, json.dumps(config | {"init": 5}), json.dumps(config | {"image_size": "a"})):
        (out / "config.json").write_text(page)
        with pytest.raises(CheckpointError, match="config.json is not that of a pretraining run .*; give the folder"):
            export_run(out, tmp_path / "none")
    (out / "config.json").write_text(json.dumps(config))
    shutil.rmtree(out / "checkpoints")
    with pytest.raises(CheckpointError, match="there is none"):
        export_run(out, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_run_of_before_the_kinds_is_exported(tokenizer: Path, out: Path, tmp_path: Path) -> None:
    """Its config.json says `redrawn`, and an image tokenizer also where that of init was taken."""
    first = Path(pretrain_run(out, tokenizer, steps=1).run(progress=False)["bundle"])
    other = tmp_path / "other"
    image_run(other, steps=1).run(progress=False)
    for replaced in ("", str(other)):
        run = tmp_path / f"run{bool(replaced)}"
        changed = pretrain_run(run, tokenizer, init=str(first), replace_image_tokenizer=replaced, steps=1)
        made = Path(changed.run(progress=False)["bundle"])
        config = json.loads((run / "config.json").read_text())
        config |= {"redrawn": config.pop("replace_image_tokenizer"), "image_tokenizer": "runs/scenes/image_tokenizer"}
        config["data"] = {"seed": 1, "captions_only": 0.05, "mix": [], "in_order": 0.0, "objects": [], "focus": []}
        (run / "config.json").write_text(json.dumps(config))
        export_run(run, tmp_path / f"exported{bool(replaced)}")
        weights = (made / "image_tokenizer.safetensors").read_bytes()
        assert (tmp_path / f"exported{bool(replaced)}" / "image_tokenizer.safetensors").read_bytes() == weights


def test_a_run_from_a_bundle_is_exported_with_its_tokenizers(tokenizer: Path, out: Path, tmp_path: Path) -> None:
    pretrain_run(out, tokenizer, steps=1).run(progress=False)
    second = pretrain_run(tmp_path / "second", tmp_path / "none", init=str(out / "bundle"), steps=1)
    second.run(progress=False)
    export_run(tmp_path / "second", tmp_path / "made")
    for path in (tmp_path / "second" / "bundle").iterdir():
        assert (tmp_path / "made" / path.name).read_bytes() == path.read_bytes(), path.name


def test_scenes_are_held_out(tokenizer: Path, out: Path) -> None:
    record = pretrain_run(out, tokenizer, validate_every=2, validate_batches=1).run(progress=False)
    assert record["val_loss"] > 0 and record["val_loss_image"] > 0
    assert "val_loss" in (out / "log.jsonl").read_text()


def test_pictures_have_nothing_held_out(tmp_path: Path, tokenizer: Path, coco: DocumentData) -> None:
    with pytest.raises(ConfigError, match="validate_every: nothing is held out; give --data.holdout 0.02, or 0"):
        pretrain_run(tmp_path / "run", tokenizer, data=coco, validate_every=1).run(progress=False)
    with pytest.raises(ConfigError, match="give 0, or --data.validation with a store of others"):
        StoreData(("x",)).held_out(None)  # type: ignore[arg-type]


def test_a_run_that_is_asked_to_stop_says_so_and_makes_no_bundle(tokenizer: Path, out: Path) -> None:
    run = pretrain_run(out, tokenizer, steps=4, sample_every=1)

    def send(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cm3.runs.pretrain_run.draw_samples", send)
        record = run.run(progress=False)
    assert record["stopped"] == "SIGTERM" and record["step"] == 1 and "bundle" not in record
    assert replace(run, sample_every=0).run(progress=False, resume=True)["step"] == 4


def test_an_image_tokenizer_that_is_asked_to_stop_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(image_run(tmp_path / "a"), steps=4, sample_every=2)

    def send(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("cm3.train.image_tokenizer.write_sheet", send)
        assert run.run(progress=False) == {"out": run.out, "step": 2, "stopped": "SIGTERM"}
    assert not (tmp_path / "a" / "image_tokenizer.safetensors").exists()
    assert "stopped" not in replace(run, sample_every=0).run(progress=False, resume=True)
    assert (tmp_path / "a" / "image_tokenizer.safetensors").exists()
