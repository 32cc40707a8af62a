"""The scorer of captions learnt by heart, and the recipe over COCO's layout that it judges, small enough for a test."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from cm3.cli.eval_by_heart import EvalByHeart
from cm3.cli.recipe import find
from cm3.data.kinds import DocumentData
from cm3.document import Document, Image, Unreadable
from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.eval.by_heart import evaluate_captions
from cm3.generate import CM3Leon
from cm3.model.vqgan import VQGANConfig
from cm3.read.coco import Coco
from cm3.runs.image_tokenizer_run import ImageTokenizerRun
from cm3.runs.pretrain_run import PretrainRun

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "photos.py"
SAYINGS = {"red": ["A red field.", "Something red"], "blue": ["A blue field.", "Nothing but blue.", "All is blue"]}


@dataclass(frozen=True)
class Made:
    document: Document


class Speaker:
    """Says of a picture what a rule over its first pixel says, and remembers how it was asked."""

    def __init__(self, say: Callable[[tuple[int, int, int]], str]) -> None:
        self.say = say
        self.asked: list[tuple[int, dict[str, Any]]] = []

    def generate_many(self, prompts: Sequence[Image], *, seeds: Sequence[int], **sampling: Any) -> list[Made]:
        assert len(seeds) == len(prompts)
        self.asked.append((len(prompts), sampling))
        made = []
        for image in prompts:
            assert isinstance(image, Image)
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
        (
            [Document.of("no picture", id="a7")],
            "captions: none of 1 documents can be measured; the first is 'a7': has 0 pictures",
        ),
        (
            [Document.of(" ", picture("red"))],
            "the first is '0': has 1 pictures and 0 characters of text; must be one picture and its caption",
        ),
        ([Document.of("two", picture("red"), picture("blue"))], "the first is '0': has 2 pictures and 3 characters"),
    ],
    ids=["none", "no picture", "no caption", "two pictures"],
)
def test_other_documents_are_refused(given: list[Document], message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_captions(Speaker(lambda pixel: ""), given)


def test_what_cannot_be_measured_is_left_out_and_named() -> None:
    cut = PIL.Image.open(io.BytesIO(noise().getvalue()[:900]))
    bad = [Document.of("no picture", id="a7"), Unreadable("8", "why"), Document.of("a", cut, id="9"), Document.of("b")]
    speaker = Speaker(lambda pixel: "All is blue")
    report = evaluate_captions(speaker, [bad[0], *documents(), *bad[1:]])
    told = report.pop("left_out")
    assert report.items() <= evaluate_captions(speaker, documents()).items() and report["n"] == 2
    assert told["count"] == 4 and [one["id"] for one in told["first"]] == ["a7", "8", "9", "8"]
    assert told["first"][1]["reason"] == "why" and "cannot be read" in told["first"][2]["reason"]


def noise() -> io.BytesIO:
    """A file of a picture that does not pack."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file


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
    """What the two recipes make of it, in few steps."""
    (tokenizer, run), _ = recipes(tmp_path_factory.mktemp("runs"), DocumentData((str(root),), holdout=0.0), (40, 80))
    measured = tokenizer.run(progress=False)
    assert measured["out"] == tokenizer.out and measured["psnr_db"] > 0 and "left_out" not in measured
    made = run.run(progress=False)
    assert (Path(run.out) / "samples" / "0000080.png").exists() and "left_out" not in made
    return Path(made["bundle"])


def recipes(
    out: Path, data: DocumentData, steps: tuple[int, int]
) -> tuple[tuple[ImageTokenizerRun, PretrainRun], DocumentData]:
    """The two recipes at 32 px and the least width."""
    tokenizer = dataclasses.replace(
        find(f"{RECIPES}:image_tokenizer")(),
        vqgan=VQGANConfig(
            factor=16, channels=8, multipliers=(1, 1), blocks=0, middle=False, attention=False, patch=8,
            z_channels=8, quantizer="fsq", codes=64, levels=(4, 4, 4), resample="shuffle",
        ),
        size=32, batch=2, steps=steps[0], warmup=2, sample_every=0, data=data, out=str(out / "tokenizer"),
    )  # fmt: skip
    recipe = find(f"{RECIPES}:by_heart")()
    run = dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, d_model=64, layers=1, heads=2, context=192),
        optim=dataclasses.replace(recipe.optim, lr=1e-2, adam_lr=1e-2, warmup=5),
        mask=dataclasses.replace(recipe.mask, columns=2),
        windows=2, length=128, steps=steps[1], sample_every=steps[1], text_entries=300, image_size=32,
        image_tokenizer=tokenizer.out, data=data, out=str(out / "by_heart"),
    )  # fmt: skip
    return (tokenizer, run), data


def test_the_recipe_learns_by_heart(root: Path, bundle: Path) -> None:
    """The whole way, from files to a description: data, tokenizers, objective, training, bundle, generation."""
    report = evaluate_captions(CM3Leon.load(str(bundle)), Coco(root))
    assert report["own_caption"] == 1.0, report["details"]
    assert (report["n"], report["captions"]) == (2, 5)


def test_the_verb(root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb = EvalByHeart.parse([str(root), "--model", str(bundle), "--json"], "cm3 eval by-heart")
    report = verb.run()
    assert json.loads(json.dumps(report)) == evaluate_captions(CM3Leon.load(str(bundle)), Coco(root))
    assert capsys.readouterr().out.splitlines() == ["own caption  100.0% of 2 pictures", "any caption  100.0%"]


def test_documents_that_cannot_be_read_are_left_out_and_named(root: Path, tmp_path: Path) -> None:
    """The recipes and the verb: one picture is cut short, one is missing, and a caption is null."""
    shutil.copytree(root, tmp_path / "coco")
    path = tmp_path / "coco" / "annotations" / "captions_train2017.json"
    content = json.loads(path.read_text())
    (tmp_path / "coco" / "train2017" / "cut.png").write_bytes(noise().getvalue()[:900])
    content["images"] += [{"id": 8, "file_name": "cut.png"}, {"id": 9, "file_name": "gone.png"}]
    content["annotations"] += [{"id": 80, "image_id": 8, "caption": "A"}, {"id": 90, "image_id": 9, "caption": "B"}]
    content["annotations"] += [{"id": 91, "image_id": 0, "caption": None}]
    path.write_text(json.dumps(content))
    made, data = recipes(tmp_path, DocumentData((str(tmp_path / "coco"),), holdout=0.0), steps=(2, 1))
    for run in made:
        for resume in (False, True):
            result = run.run(progress=False, resume=resume)
            assert result["left_out"]["count"] == 3
            log = [json.loads(line) for line in (Path(run.out) / "log.jsonl").read_text().splitlines()]
            assert [line["left_out"] for line in log if "left_out" in line] == [result["left_out"]]
        picture = "cut.png" if run is made[0] else "80"  # an image tokenizer knows pictures, not their captions
        assert {one["id"] for one in result["left_out"]["first"]} == {picture, "90", "91"}
    report = EvalByHeart.parse([data.sources[0], "--model", made[1].out + "/bundle"], "cm3 eval by-heart").run()
    assert report["n"] == 2 and report["left_out"]["count"] == 3
    content["annotations"] = content["annotations"][-3:]
    path.write_text(json.dumps(content))
    for run in made:
        elsewhere = dataclasses.replace(run, out=str(tmp_path / "none"))
        with pytest.raises(DataError, match="none of (3 in a row|1 pictures) can be read"):
            elsewhere.run(progress=False)
        assert not (tmp_path / "none").exists()
    with pytest.raises(DataError, match="captions: none of 3 documents can be measured; the first is '91'"):
        EvalByHeart.parse([data.sources[0], "--model", made[1].out + "/bundle"], "cm3 eval by-heart").run()


def test_the_verb_names_what_is_wrong(root: Path, bundle: Path) -> None:
    with pytest.raises(CheckpointError):
        EvalByHeart.parse([str(root), "--model", str(root)], "cm3 eval by-heart").run()
    with pytest.raises(DataError, match="has no split 'val2017'; it has train2017"):
        EvalByHeart.parse([f"{root}@val2017", "--model", str(bundle)], "cm3 eval by-heart").run()


@pytest.mark.parametrize("name", ["image_tokenizer", "by_heart"])
def test_the_recipes_state_their_price_and_name_no_machine(name: str) -> None:
    recipe = find(f"{RECIPES}:{name}")
    told = recipe.__doc__ or ""
    assert f"cm3 train photos:{name}" in told and "price" in told and "promise" in told
    config = recipe()
    assert config.data.sources == ("data/photos",)
    assert not any(Path(str(v)).is_absolute() for v in vars(config).values())
