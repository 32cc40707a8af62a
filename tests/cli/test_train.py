"""A recipe is found, its settings are replaced strictly, and what is wrong with one is one line."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from pathlib import Path

import pytest
from command import Cm3

from cm3.cli.parse import names_of
from cm3.cli.recipe import find, recipes_of

RECIPES = '''
"""Recipes for a test."""
from __future__ import annotations
from dataclasses import dataclass, field
from cm3.errors import ConfigError

@dataclass(frozen=True)
class Optim:
    lr: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    def __post_init__(self) -> None:
        if self.lr <= 0:
            long = "say a longer thing " * 9 + "/a/path/in/one/piece"
            raise ConfigError(f"optim.lr={self.lr}: must be above 0; {long}")

@dataclass(frozen=True)
class Settings:
    steps: int = 10
    optim: Optim = field(default_factory=Optim)
    out: str = "runs/x"
    threads: int = 0
    compile: bool = False
    sizes: tuple[int, ...] = (1, 2)
    name: str | None = None
    def run(self, *, progress: bool, resume: bool) -> dict:
        print("a line of the run")
        return {**vars(self), "optim": vars(self.optim), "progress": progress, "resume": resume}

def tiny(steps: int = 7) -> Settings:
    """Tiny.

    Price: nothing. Promise: nothing.

    command: cm3 train
    data: none, and
    nothing else
    """
    return Settings(steps=steps)

def number() -> int:
    return 3

def wrong() -> Settings:
    return Settings(optim=Optim(lr=-1))

@dataclass(frozen=True)
class Stopped(Settings):
    def run(self, *, progress: bool, resume: bool) -> dict:
        print("a line of the run")
        return {"out": self.out, "step": 6, "stopped": "SIGTERM"}

def stopped() -> Stopped:
    return Stopped()

def _hidden() -> Settings:
    return Settings()

def needs(what: int) -> Settings:
    return Settings()
'''


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A file of recipes in the folder where commands are given."""
    path = tmp_path / "some_recipes.py"
    path.write_text(RECIPES)
    return path


def test_a_recipe_runs_as_it_is(cm3: Cm3, recipes: Path) -> None:
    ran = cm3("train", "some_recipes.py:tiny", "--json")
    assert ran.code == 0
    assert ran.out.count("\n") == 1 and "a line of the run" in ran.err
    assert ran.json == {
        "steps": 7, "optim": {"lr": 1e-3, "betas": [0.9, 0.95]}, "out": "runs/x", "threads": 0, "compile": False,
        "sizes": [1, 2], "name": None, "progress": True, "resume": False,
    }  # fmt: skip


def test_settings_are_replaced_by_dotted_names(cm3: Cm3, recipes: Path) -> None:
    change = "--optim.lr 3e-4 --steps=5 --optim.betas 0.8 0.9 --compile --sizes 4 5 6 --name x --threads 2 --resume"
    made = cm3("train", f"{recipes}:tiny", *change.split(), "--json").json
    assert made["optim"] == {"lr": 3e-4, "betas": [0.8, 0.9]}
    assert (made["steps"], made["compile"], made["sizes"], made["name"]) == (5, True, [4, 5, 6], "x")
    assert made["threads"] == 2  # the recipe's own, which stands before the option of every verb
    assert made["resume"] is True


def test_a_run_that_a_signal_stopped_is_not_done(cm3: Cm3, recipes: Path) -> None:
    told = "cm3: stopped by SIGTERM at step 6, which is saved; go on with the same command and --resume\n"
    ran = cm3("train", "some_recipes.py:stopped")
    assert ran.code == 75 and ran.err == told and ran.out.endswith("stopped: SIGTERM\n")
    ran = cm3("train", "some_recipes.py:stopped", "--json")
    assert ran.code == 75 and ran.err.endswith(told) and ran.out.count("\n") == 1
    assert ran.json == {"out": "runs/x", "step": 6, "stopped": "SIGTERM"}


def test_help_tells_price_and_promise_and_settings(cm3: Cm3, recipes: Path) -> None:
    told = cm3("train", "some_recipes.py:tiny", "--help")
    assert told.code == 0
    for piece in ("Price: nothing. Promise: nothing.", "--optim.lr", "Peak learning rate.", "(default: 7)", "--resume"):
        assert piece in told.out
    assert "\n\nPrice: nothing. Promise: nothing.\n\ncommand: cm3 train\n\ndata: none, and nothing else\n" in told.out


def test_a_recipe_of_a_module(cm3: Cm3, recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(recipes.parent))
    assert cm3("train", "some_recipes:tiny", "--json").json["steps"] == 7


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["some_recipes.py:tiny", "--optim.lrr", "1"], "--optim.lrr: no such option. Did you mean '--optim.lr'?"),
        (["some_recipes.py:tiny", "--lr", "1"], "--lr: no such option. Did you mean '--optim.lr'?"),
        (["some_recipes.py:tiny", "--steps", "x"], "--steps: 'x' is not a whole number"),
        (["some_recipes.py:tiny", "--optim.betas", "1"], "Missing value for argument '--optim.betas'"),
        (["some_recipes.py:tiny", "--steps", "3", "4"], "'4': one argument too many"),
        (["some_recipes.py:tiny", "--optim.lr", "-1"], "optim.lr=-1.0: must be above 0"),
        (["some_recipes.py:tiny", "--optim.lr", "-1"], "/a/path/in/one/piece; see cm3 train"),
        (["some_recipes.py:wrong"], "optim.lr=-1: must be above 0"),
        (["some_recipes.py:tinny"], "has no recipe 'tinny'. Did you mean 'tiny'? It has tiny, number, wrong"),
        (["some_recipes.py"], "names no function; it has tiny, number, wrong"),
        (["some_recipes.py:_hidden"], "has no recipe '_hidden'"),
        (["some_recipes.py:needs"], "has no recipe 'needs'"),
        (["some_recipes.py:number"], "returned a int; must return a dataclass with run"),
        (["some_recipe.py:tiny"], "no such file. Did you mean 'some_recipes.py'?"),
        (["nothing_here:tiny"], "recipe module 'nothing_here': does not load: ModuleNotFoundError"),
        (["scene:pretrain"], "No module named 'scene'. Did you mean 'scenes'? Write path/to/file.py:FUNCTION"),
        (["torn.py:tiny"], "does not load: SyntaxError"),
        (["raising.py:tiny"], "does not load: ZeroDivisionError"),
        (["--steps", "3"], "no recipe; write cm3 train path/to/file.py:FUNCTION"),
    ],
)
def test_what_is_wrong_is_one_line(cm3: Cm3, recipes: Path, command: list[str], told: str) -> None:
    (recipes.parent / "torn.py").write_text("def tiny(:\n")
    (recipes.parent / "raising.py").write_text("1 / 0\n")
    assert told in cm3("train", *command).refusal


def test_image_tokenizers_are_trained_by_the_same_verb(cm3: Cm3, recipes: Path) -> None:
    recipe = """
from dataclasses import dataclass
from cm3.train.image_tokenizer import ImageTokenizerConfig

@dataclass(frozen=True)
class Run(ImageTokenizerConfig):
    def run(self, *, progress: bool, resume: bool) -> dict:
        return {"steps": self.steps}

def tiny() -> Run:
    return Run()
"""
    Path("images.py").write_text(recipe)
    assert cm3("tokenizer", "image", "train", "images.py:tiny", "--steps", "3", "--json").json["steps"] == 3


def test_names_of_nested_settings() -> None:
    from cm3.train.image_tokenizer import ImageTokenizerConfig

    names = set(names_of(ImageTokenizerConfig()))
    assert {"lr", "vqgan.codes", "vqgan.multipliers"} <= names
    assert "vqgan" not in names


SHIPPED = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.py"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_option_of_the_recipes_says_what_it_is(cm3: Cm3, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the entries of a table (sampling.image.guidance), which are named by whoever wrote it."""
    monkeypatch.setenv("COLUMNS", "90")
    for name in recipes_of(inspect.getmodule(find(f"{path}:{first_of(path)}"))):
        told = cm3("train", f"{path}:{name}", "--help").out
        lines = [line.strip("\u2502 ") for line in told.splitlines() if line[:1] == "\u2502"]
        starts = [i for i, line in enumerate(lines) if line.startswith("--") and len(line) > 2] + [len(lines)]
        assert len(starts) > 30
        for a, b in itertools.pairwise(starts):
            block = " ".join(lines[a:b])
            words = re.sub(r"\(default.*|\(sets.*|\(required\)|--\S+|\{[^}]*\}|\[[^]]*\]", "", block)
            if not lines[a].startswith(("--sampling.", "--data.shares.")):
                assert re.search(r"[a-z]{3,}|[A-Z][a-z]+", words), (name, block)


def first_of(path: Path) -> str:
    made = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    return next(node.name for node in made if len(node.args.args) == len(node.args.defaults))
