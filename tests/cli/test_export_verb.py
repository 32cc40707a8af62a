"""`cm3 export`: the last checkpoint of a run, or another, becomes a bundle; what is wrong is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_model
from command import Cm3

from cm3.cli.export import Export
from cm3.errors import CheckpointError
from cm3.model import bundle
from cm3.model.decoder import DecoderConfig
from cm3.runs.image_tokenizer_run import ImageTokenizerRun
from cm3.runs.pretrain_run import PretrainRun
from cm3.scenes.scene_kinds import SceneData
from cm3.sequence.mask import MaskLaw


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer, out = folder / "tokenizer", folder / "out"
    ImageTokenizerRun(
        vqgan=tiny_model.SHAPE,
        size=tiny_model.SIZE,
        batch=2,
        steps=1,
        warmup=1,
        out=str(tokenizer),
        sample_every=0,
        data=SceneData(),
    ).run(progress=False)
    out.mkdir()
    shutil.copyfile(tiny_model.tokenizer_path(), out / "tokenizer.json")
    PretrainRun(
        out=str(out), model=DecoderConfig(d_model=16, layers=1, heads=2, context=160, positions="rope"), mask=MaskLaw(),
        windows=1, length=160, steps=3, save_every=1, sample_every=0, image_tokenizer=str(tokenizer),
        image_size=tiny_model.SIZE, masks=16, data=SceneData(),
    ).run(progress=False)  # fmt: skip
    return out


def test_a_run_becomes_a_bundle(cm3: Cm3, run: Path, tmp_path: Path) -> None:
    made = cm3("export", run, "--out", "made", "--json")
    assert made.code == 0 and made.json == {"out": "made", "step": 3}
    assert (tmp_path / "made" / "config.json").read_bytes() == (run / "bundle" / "config.json").read_bytes()
    made = cm3("export", run, "--out", "made", "--step", "2", "--dtype", "float32")
    assert made.code == 0 and made.out == "made: the model of step 2\n"
    assert bundle.load(tmp_path / "made").about["steps"] == 2
    described = cm3("describe", tmp_path / "made" / "none.png", "--model", "made")
    assert "none.png" in described.refusal


def test_a_run_becomes_a_bundle_in_int8_that_draws_and_is_not_trained(cm3: Cm3, run: Path, tmp_path: Path) -> None:
    assert cm3("export", run, "--out", "small", "--dtype", "int8", "--json").json == {"out": "small", "step": 3}
    assert cm3("export", run, "--out", "plain", "--dtype", "float32").code == 0
    sizes = [(tmp_path / name / "decoder.safetensors").stat().st_size for name in ("small", "plain")]
    assert sizes[0] < sizes[1] / 2
    drawn = [
        cm3("generate", "a red circle", "--model", model, *more, "--out", f"{model}.png").code
        for model, more in (("small", ()), ("small", ("--dtype", "int8")), ("plain", ("--dtype", "int8")))
    ]
    assert drawn == [0, 0, 0]
    told = cm3("generate", "a red circle", "--model", "small", "--verbose", "--out", "said.png").err
    assert "cm3: the language model computes in int8 on cpu: the weights are stored in it\n" in told
    told = cm3("generate", "a red circle", "--model", "small", "--dtype", "float32", "--out", "no.png").refusal
    assert "dtype='float32': the model's weights are in int8; leave dtype out" in told
    told = cm3("generate", "a red circle", "--model", "plain", "--dtype", "int8", "--device", "mps", "--out", "no.png")
    assert "device='mps': int8 computes on cpu and cuda alone; give one, or another dtype" in told.refusal
    assert not (tmp_path / "no.png").exists()
    begun = PretrainRun(
        out=str(tmp_path / "more"), init="small", windows=1, length=160, steps=1, sample_every=0, data=SceneData()
    )
    for make in (begun.settled, lambda: begun.run(progress=False)):
        with pytest.raises(
            CheckpointError, match="^init='small': its weights are in int8, which is not trained; begin"
        ):
            make()
    assert not (tmp_path / "more").exists()


def test_what_is_wrong_is_one_line(cm3: Cm3, run: Path, tmp_path: Path) -> None:
    assert "config.json is not that of a pretraining run" in cm3("export", tmp_path, "--out", "x").refusal
    assert "there is none of step 7, but of 2, 3" in cm3("export", run, "--out", "x", "--step", "7").refusal
    assert "--dtype" in cm3("export", run, "--out", "x", "--dtype", "int4").refusal
    assert not (tmp_path / "x").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    # Before any work: of a checkpoint that is not there nothing is said.
    assert "holds other files, which would be lost" in cm3("export", run, "--out", "mine", "--step", "7").refusal
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_help_has_examples(cm3: Cm3) -> None:
    told = cm3("export", "--help")
    assert told.code == 0 and "cm3 export runs/scenes/pretrain --out bundle" in told.out
    assert Export.__doc__ and json.dumps(Export.__doc__).isascii()
