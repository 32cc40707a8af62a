"""`cm3 sweep` sweeps real training of a tiny model, ends in options that train, and refuses what does not fit."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from batch_parts import command
from command import Cm3
from forks import forks, python

from cm3.cli.recipe import find
from cm3.cli.sweep import axis, option
from cm3.errors import RequestError
from cm3.train.checkpoint import last
from cm3.train.sweep import Axis

pytest.importorskip("optuna")

RECIPE = '''
"""A model of one layer on documents that are drawn on the fly."""
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Any
import numpy as np
from cm3.data.load import Source
from cm3.model.decoder import DecoderConfig
from cm3.train.optim import OptimConfig
from cm3.train.trainer import TrainConfig, Trainer
from cm3.vocab import Tokens, Vocab

VOCAB = Vocab(text=256, image=16, masks=8, reserved=0)

class Pairs(Source):
    def sequences(self, indices: Any) -> list[Tokens]:
        return [self.one(i) for i in indices]
    def one(self, i: int) -> Tokens:
        words = VOCAB.text_start + np.concatenate([[i % 16], np.random.default_rng(i).integers(0, 4, 4)])
        codes = VOCAB.image_start + (i + np.arange(4)) % 16
        return Tokens.of([VOCAB.eos, *words, VOCAB.brk, *codes, VOCAB.eos], [0] * 7 + [1, 2, 3, 4] + [0])

@dataclass(frozen=True)
class Run(TrainConfig):
    name: str = "none"
    fast: bool = False
    sizes: tuple[int, ...] = (1, 2)
    words: tuple[str, ...] = ("a",)
    limit: int | None = None
    def run(self, *, progress: bool = True, resume: bool = False) -> dict:
        fields = {f: getattr(self, f) for f in TrainConfig.__dataclass_fields__}
        return Trainer(TrainConfig(**fields), VOCAB, Pairs(), resume=resume).run(progress=progress)

def tiny() -> Run:
    """Tiny: "a model" of one layer.

    Price: a second. Promise: nothing.
    """
    return Run(
        "runs/tiny",
        DecoderConfig(vocab_size=VOCAB.size, d_model=16, layers=1, heads=2, context=64, positions="rope", grid=(2, 2)),
        optim=OptimConfig(lr=1e-4, warmup=1), steps=9, windows=1, length=64, log_every=1, save_every=3, sample_every=0,
    )

@dataclass(frozen=True)
class Other:
    out: str = "x"
    def run(self, *, progress: bool, resume: bool) -> dict:
        return {}

def other() -> Other:
    return Other()
'''


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A recipe in the folder where commands are given."""
    (tmp_path / "some_recipes.py").write_text(RECIPE)
    return "some_recipes.py:tiny"


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are forked from a server that has imported torch; in the test of a sweep that was ended they import it."""
    context = forks()
    monkeypatch.setattr("cm3.train.sweep.multiprocessing.get_context", lambda kind: context)


@pytest.mark.slow
def test_a_sweep_ends_in_the_options_that_train_with_the_best(
    cm3: Cm3, recipe: str, tmp_path: Path, forked: None
) -> None:
    command = ["sweep", recipe, "--search", "optim.lr=1e-4,3e-2", "--search", "fast=true", "--metric", "loss_image"]
    made = cm3(*command, "--steps", "6", "--grace", "6", "--out", "sweep", "--json")
    assert made.code == 0, made.err
    assert made.json["best"]["values"] == {"optim.lr": 3e-2, "fast": True}
    assert made.json["options"] == ["--optim.lr=0.03", "--fast"]
    assert "train with the best: cm3 train some_recipes.py:tiny --optim.lr=0.03 --fast" in made.err
    lines = [json.loads(line) for line in Path("sweep/trials.jsonl").read_text().splitlines()]
    assert {line["values"]["optim.lr"] for line in lines} == {1e-4, 3e-2}
    for line in lines:
        log = [json.loads(entry) for entry in (Path(line["out"]) / "log.jsonl").read_text().splitlines()]
        assert line["step"] == 6 and line["value"] == pytest.approx(log[-1]["loss_image"])
    assert "trial 0" in made.err and "done" in made.err and "best first by loss_image" in made.err
    trained = cm3("train", recipe, *made.json["options"], "--steps", "2", "--json")
    assert trained.code == 0 and trained.json["step"] == 2, trained.err
    # What is done is not done again.
    before = {p: p.stat().st_mtime_ns for p in Path("sweep").glob("trial-*/log.jsonl")}
    assert cm3(*command, "--steps", "6", "--grace", "6", "--out", "sweep", "--json").json["best"] == made.json["best"]
    assert {p: p.stat().st_mtime_ns for p in Path("sweep").glob("trial-*/log.jsonl")} == before
    assert "holds a sweep with another metric, search" in cm3(
        "sweep", recipe, "--search", "windows=1,2", "--steps", "6", "--grace", "6", "--out", "sweep"
    ).refusal  # fmt: skip


@pytest.mark.slow
def test_a_sweep_that_was_ended_goes_on_from_the_checkpoint(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["sweep", recipe, "--search", "optim.lr=3e-3", "--steps", "100", "--out", "sweep", "--json"]
    folder = tmp_path / "sweep" / "trial-0000"
    monkeypatch.chdir(tmp_path)
    first = forks().Process(target=command, args=words)
    first.start()
    end = time.monotonic() + 100
    while last(folder) is None:
        assert time.monotonic() < end and first.is_alive()
        time.sleep(0.02)
    first.terminate()
    first.join()
    assert first.exitcode == 75
    assert len((folder / "log.jsonl").read_text().splitlines()) < 100
    ran = python("-m", "cm3", *words, timeout=100)
    assert ran.returncode == 0, ran.stderr
    best = json.loads(ran.stdout.splitlines()[-1])["best"]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]  # the others say which type a start computes in
    assert best["trial"] == 0 and best["step"] == 100 and steps == list(range(1, 101))


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ([], "no --search; give at least one, such as --search optim.lr=1e-4..3e-3"),
        (["optim.lrr=1e-4..1e-3"], "the recipe has no setting 'optim.lrr'. Did you mean 'optim.lr'? See cm3 train"),
        (["lr=1e-4..1e-3"], "the recipe has no setting 'lr'. Did you mean 'optim.lr'?"),
        (["windows=4,x"], "--search windows=4,x: --windows: 'x' is not a whole number"),
        (["windows=1.5..4"], "'1.5' is not a whole number"),
        (["optim.lr=-1..1"], "--search optim.lr=-1..1: optim.lr=-1.0: must be over 0 and under 100"),
        (["optim.lr=3e-3..1e-3"], "must begin below its end"),
        (["z_loss=log:0..1"], "a logarithmic range must begin above 0; write lin:0..1"),
        (["name=log:a..b"], "a range is of numbers; list the choices"),
        (["windows="], "--search windows=: has no value; must be NAME=A..B or NAME=A,B,C"),
        (["fast="], "--search fast=: has no value"),
        (["windows=../4"], "--search windows=../4: --windows: '' is not a whole number"),
        (["optim.betas=0.9..0.95"], "Expected 2 values"),
        (["windows=log:1,2"], "log: is for a range, log:A..B"),
        (["windows=1,2,1"], "1 stands there twice"),
        (["fast=yes"], "'yes' must be true or false"),
        (["windows"], "must be NAME=A..B or NAME=A,B,C"),
        (["steps=1,2"], "steps is the same for all trials; give --steps"),
        (["windows=1,2", "windows=3,4"], "search 'windows': must be given once; list its choices with commas"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_trains(
    cm3: Cm3, recipe: str, search: list[str], told: str
) -> None:
    assert told in cm3("sweep", recipe, *(w for text in search for w in ("--search", text)), "--out", "sweep").refusal
    assert not Path("sweep").exists()


@pytest.mark.slow
def test_settings_that_do_not_fit_together_make_a_failed_trial(cm3: Cm3, recipe: str, forked: None) -> None:
    search = ["--search", "model.d_model=16,20", "--search", "model.heads=2,4", "--steps", "2", "--grace", "2"]
    made = cm3("sweep", recipe, *search, "--out", "sweep", "--json")
    assert made.code == 0, made.err
    *done, failed = made.json["trials"]
    assert [t["state"] for t in done] == ["done"] * 3 and (failed["state"], failed["value"]) == ("failed", None)
    assert failed["values"] == {"model.d_model": 20, "model.heads": 4} and "decoder." in failed["reason"]


def test_a_run_without_steps_is_refused(cm3: Cm3, recipe: str) -> None:
    told = cm3("sweep", "some_recipes.py:other", "--search", "out=a,b").refusal
    assert told.startswith("recipe 'some_recipes.py:other': its run has no 'steps', which a sweep sets for each trial")
    for options, error in (
        (["--trials", "0"], "--trials 0: must be at least 1"),
        (["--steps", "0"], "--steps 0: must"),
    ):
        assert error in cm3("sweep", recipe, "--search", "windows=1,2", *options).refusal


def test_what_a_search_says(cm3: Cm3, recipe: str) -> None:
    config = find(recipe)()

    def said(text: str) -> Axis:
        return axis(text, recipe, config)

    assert said("optim.lr=1e-4..3e-3") == Axis("optim.lr", 1e-4, (), 1e-4, 3e-3, True)
    assert said("optim.lr=lin:1e-4..3e-3").log is False
    assert said("optim.lr=1e-3..3e-3").log is False and said("optim.lr=log:1e-3..3e-3").log is True
    assert said("z-loss=0..1") == Axis("z_loss", 0.0, (), 0.0, 1.0)
    windows = said("windows=1..32")
    assert windows == Axis("windows", 1, (), 1, 32) and isinstance(windows.low, int)
    assert said("windows=log:1..32").log is True
    assert said("optim.betas=0.9 0.95,0.9 0.98").choices == ((0.9, 0.95), (0.9, 0.98))
    assert said("fast=true,false").choices == (True, False)
    assert said("limit=None,3").choices == (None, 3)
    assert said("name=a, b").choices == ("a", "b")
    # Paths, relative and upwards, and nothing, are values as others are.
    assert said("name=../runs/a").choices == ("../runs/a",)
    assert said("name=../a,b/../c,./d..e,1..2").choices == ("../a", "b/../c", "./d..e", "1..2")
    assert said("name=").choices == ("",) and said("name=,scenes").choices == ("", "scenes")
    assert said("words=../a ../b,../c").choices == (("../a", "../b"), ("../c",)) and said("words=").choices == ((),)
    assert said("limit=3..9") == Axis("limit", None, (), 3, 9) and said("limit=None").choices == (None,)
    with pytest.raises(RequestError, match="optim.name='sgd'|invalid choice|'sgd'"):
        said("optim.name=sgd")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("optim.lr", 3e-4, ["--optim.lr=0.0003"]),
        ("fast", True, ["--fast"]),
        ("a.fast", False, ["--a.no-fast"]),
        ("sizes", (4, 5), ["--sizes", "4", "5"]),
        ("limit", None, ["--limit=None"]),
        ("name", "-a b", ["--name=-a b"]),
        ("name", "", ["--name="]),
        ("name", "../a..b", ["--name=../a..b"]),
        ("words", (), ["--words"]),
    ],
)
def test_a_value_becomes_an_option(cm3: Cm3, recipe: str, name: str, value: object, words: list[str]) -> None:
    assert option(name, value) == words
    if not name.startswith("a."):
        from cm3.cli.sweep import _get
        from cm3.cli.train import Train

        assert _get(Train.parse([recipe, *words], "cm3 train").config, name) == value


def test_the_old_name_of_the_verb_says_the_new_one(cm3: Cm3) -> None:
    assert cm3("tune", "a.py:b").refusal == "cm3 tune is cm3 sweep now; give it the same options"
