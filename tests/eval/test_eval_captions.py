"""The scorer of captions learnt by heart, and the recipe over COCO's layout that it judges, small enough for a test."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from cm3.cli.evaluate import EvalCaptions
from cm3.cli.recipe import find
from cm3.data.read.coco import Coco
from cm3.document import Document, Gap, Image
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.eval.captions import evaluate_captions
from cm3.generate import CM3Leon
from cm3.model.vqgan import VQGANConfig
from cm3.train.runs import CocoData

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "coco.py"
SAYINGS = {"red": ["A red field.", "Something red"], "blue": ["A blue field.", "Nothing but blue.", "All is blue"]}


@dataclass(frozen=True)
class Made:
    document: Document


class Speaker:
    """Says of a picture what a rule over its first pixel says, and remembers how it was asked."""

    def __init__(self, say: Callable[[tuple[int, int, int]], str]) -> None:
        self.say = say
        self.asked: list[tuple[int, dict[str, Any]]] = []

    def generate_many(self, prompts: Sequence[Document], *, seeds: Sequence[int], **sampling: Any) -> list[Made]:
        assert len(seeds) == len(prompts)
        self.asked.append((len(prompts), sampling))
        made = []
        for prompt in prompts:
            gap, image = prompt.parts
            assert gap == Gap("text") and isinstance(image, Image)
            made.append(Made(Document.of(self.say(image.pixels.getpixel((0, 0))), image)))  # type: ignore[arg-type]
        return made


def picture(colour: str) -> PIL.Image.Image:
    """A field of one colour, with a bright or a dark part so that no tokenizer can take one for the other."""
    made = PIL.Image.new("RGB", (32, 32), colour)
    made.paste(*(("white", (16, 0, 32, 32)) if colour == "red" else ("black", (0, 16, 32, 32))))
    return made


def documents() -> list[Document]:
    """Five captions of two pictures, each read from disk anew: another object, the same pixels."""
    return [
        Document.of(text, picture(colour), id=f"{colour} {i}", image_id=colour)
        for i in range(3)
        for colour, texts in SAYINGS.items()
        for text in texts[i : i + 1]
    ]


def test_one_of_its_own_but_for_white_space() -> None:
    speaker = Speaker(lambda pixel: " Something  red\n" if pixel[0] else "All is blue")
    report = evaluate_captions(speaker, documents())
    assert (report["own_caption"], report["any_caption"]) == (1.0, 1.0)
    assert (report["n"], report["captions"]) == (2, 5)
    assert report["details"] == [
        {"image": "red", "text": "Something red", "own": True},
        {"image": "blue", "text": "All is blue", "own": True},
    ]
    json.dumps(report)


@pytest.mark.parametrize(
    ("said", "own", "known"),
    [
        ("A red field.", 0.5, 1.0),
        ("A red field", 0.0, 0.0),
        ("a red field.", 0.0, 0.0),
        ("A red field. A red field.", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
    ids=["of the other", "no full stop", "case", "twice", "nothing"],
)
def test_anything_else_does_not_count(said: str, own: float, known: float) -> None:
    report = evaluate_captions(Speaker(lambda pixel: said), documents())
    assert (report["own_caption"], report["any_caption"]) == (own, known)


def test_greedy_in_batches_with_progress() -> None:
    speaker, told = Speaker(lambda pixel: "All is blue"), []
    many = [Document.of("x", PIL.Image.new("RGB", (2, 2), (i, 0, 0))) for i in range(5)]
    report = evaluate_captions(speaker, many, batch=2, progress=lambda done, total: told.append((done, total)))
    assert speaker.asked == [(n, {"temperature": 0.0}) for n in (2, 2, 1)]
    assert told == [(2, 5), (4, 5), (5, 5)] and report["n"] == 5
    assert [d["image"] for d in report["details"]] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "captions: there are no documents; check the folder and the split"),
        ([Document.of("no picture", id="a7")], "captions: document 'a7' has 0 pictures and 10 characters of text"),
        (
            [Document.of(" ", picture("red"))],
            "captions: document 0 has 1 pictures and 0 characters of text; must be one",
        ),
        ([Document.of("two", picture("red"), picture("blue"))], "captions: document 0 has 2 pictures"),
    ],
    ids=["none", "no picture", "no caption", "two pictures"],
)
def test_other_documents_are_refused(given: list[Document], message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_captions(Speaker(lambda pixel: ""), given)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch=0: must be at least 1"):
        evaluate_captions(Speaker(lambda pixel: ""), documents(), batch=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same five captions of two pictures, in COCO's layout."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    (root / "train2017").mkdir()
    names = list(SAYINGS)
    for colour in names:
        picture(colour).save(root / "train2017" / f"{colour}.png")
    images = [{"id": i, "file_name": f"{colour}.png"} for i, colour in enumerate(names)]
    captions = [(names.index(colour), text) for colour, texts in SAYINGS.items() for text in texts]
    annotations = [{"id": i, "image_id": of, "caption": text} for i, (of, text) in enumerate(captions)]
    content = {"images": images, "annotations": annotations}
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def bundle(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two recipes make of it at 32 px and the least width, in few steps."""
    out, data = tmp_path_factory.mktemp("runs"), CocoData(str(root))
    tokenizer = dataclasses.replace(
        find(f"{RECIPES}:image_tokenizer")(),
        vqgan=VQGANConfig(
            factor=16, channels=8, multipliers=(1, 1), blocks=0, middle=False, attention=False, patch=8,
            z_channels=8, quantizer="fsq", codes=64, levels=(4, 4, 4), resample="shuffle",
        ),
        size=32, batch=2, steps=40, warmup=2, sample_every=0, data=data, out=str(out / "tokenizer"),
    )  # fmt: skip
    measured = tokenizer.run(progress=False)
    assert measured["out"] == tokenizer.out and measured["psnr_db"] > 0
    recipe = find(f"{RECIPES}:pretrain")()
    run = dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, d_model=64, layers=1, heads=2, context=192),
        optim=dataclasses.replace(recipe.optim, lr=1e-2, adam_lr=1e-2, warmup=5),
        mask=dataclasses.replace(recipe.mask, columns=2),
        windows=2, length=128, steps=80, sample_every=80, text_entries=300, image_size=32,
        image_tokenizer=tokenizer.out, data=data, out=str(out / "pretrain"),
    )  # fmt: skip
    made = run.run(progress=False)
    assert (out / "pretrain" / "samples" / "0000080.png").exists()
    return Path(made["bundle"])


def test_the_recipe_learns_by_heart(root: Path, bundle: Path) -> None:
    """The whole way, from files to a description: data, tokenizers, objective, training, bundle, generation."""
    report = evaluate_captions(CM3Leon.load(str(bundle)), Coco(root).documents())
    assert report["own_caption"] == 1.0, report["details"]
    assert (report["n"], report["captions"]) == (2, 5)


def test_the_verb(root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb = EvalCaptions.parse(["--model", str(bundle), "--root", str(root), "--json"], "cm3 eval captions")
    report = verb.run()
    assert json.loads(json.dumps(report)) == evaluate_captions(CM3Leon.load(str(bundle)), Coco(root).documents())
    assert capsys.readouterr().out.splitlines() == ["own caption  100.0% of 2 pictures", "any caption  100.0%"]


def test_the_verb_names_what_is_wrong(root: Path, bundle: Path) -> None:
    with pytest.raises(CheckpointError):
        EvalCaptions.parse(["--model", str(root), "--root", str(root)], "cm3 eval captions").run()
    with pytest.raises(DataError, match="captions_val2017.json is missing in annotations/"):
        EvalCaptions.parse(
            ["--model", str(bundle), "--root", str(root), "--split", "val2017"], "cm3 eval captions"
        ).run()


@pytest.mark.parametrize("name", ["image_tokenizer", "pretrain"])
def test_the_recipes_state_their_price_and_name_no_machine(name: str) -> None:
    recipe = find(f"{RECIPES}:{name}")
    told = recipe.__doc__ or ""
    assert f"cm3 train recipes/coco.py:{name}" in told and "price" in told and "promise" in told
    config = recipe()
    assert config.data.root == "data/coco"
    assert not any(Path(str(v)).is_absolute() for v in vars(config).values())
