"""The edge of a model's world: what is told, what is taken, and that the shipped words are those of training."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tiny_model

from cm3.document import Document, Gap, Image
from cm3.errors import CheckpointError
from cm3.generate import CM3Leon
from cm3.generate.known_world import WORDS_SHOWN, World, errors
from cm3.model import bundle as bundles
from cm3.scenes import describe, draw, random_scene
from cm3.scenes.data.lesson_documents import TASKS, scene_example
from cm3.scenes.emblems import emblem, say
from cm3.scenes.knows import PICTURE_ERROR, WORDS, WORLD

PHOTOS = Path(__file__).resolve().parents[2] / "shared/data/photos"
EDGE = World("small things", ("a", "red", "circle", "grey", "colour", "word"), {"gray": "grey", "color": "colour"})


def test_the_shipped_bundle_says_what_its_world_holds() -> None:
    about = bundles.load(bundles.find("scenes"), weights=False).about
    assert about["world"] == json.loads(json.dumps(WORLD)) and World.of(about, "scenes") is not None


def test_its_words_are_those_of_all_that_training_shows_and_no_others() -> None:
    rng, found = np.random.default_rng(0), set[str]()
    texts = [describe(random_scene(rng), rng) for _ in range(600)]
    texts += [re.sub(r" \w+$", "", say(emblem(i, "train"), rng)) for i in range(60)]
    for task in TASKS:
        for i in range(150):
            fields = scene_example(task, 0, i, 16, ("train", "held_out")[i % 2]).fields
            wanted = ("caption", "instruction", "question", "answer", "ocr_content", "explanation")
            texts += [str(fields[name]) for name in wanted if name in fields and task != "scienceqa"]
            texts += [str(fields[name]) for name in ("question", "explanation") if name in fields]
    world = World("scenes", WORDS)
    for text in texts:
        assert world.unknown(text) == [], text
        assert world.take(text) == text
        found.update(re.findall("[a-z]+", re.sub('"[^"]*"', "", text)))
    assert set(WORDS) - found <= {"zero"}


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("A Red CIRCLE", "a red circle"),
        ("a gray, Gray GRAY circle", "a grey, grey grey circle"),
        ("what Color?", "what colour?"),
        ('word "GRAY" a', 'word "GRAY" a'),
        ("a Cat  on\na Red", "a Cat  on\na red"),
        ("", ""),
    ],
)
def test_other_spellings_are_taken_and_all_else_stays(given: str, taken: str) -> None:
    assert EDGE.take(given) == taken and EDGE.take(taken) == taken


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("a red circle.", []),
        ("a cat, a red Cat", ["cat", "Cat"]),
        ("3 circles", ["3", "circles"]),
        ("a \u8d64\u3044 circle \U0001f534", ["\u8d64\u3044", "\U0001f534"]),
        ('a word "XYZ"', []),
        ("un-red grey-red", ["un-red", "grey-red"]),
    ],
)
def test_unknown_words_are_named_once(text: str, unknown: list[str]) -> None:
    assert EDGE.unknown(text) == unknown
    assert EDGE.unknown(text, also=[text]) == []


@pytest.fixture(scope="module")
def knowing() -> CM3Leon:
    """A model with an edge to its world, and pictures that its random codes cannot keep."""
    bundle = tiny_model.bundle()
    bundle.name, bundle.about["world"] = "known", {"says": "small things", "words": [*EDGE.words], "spellings": {},
                                                   "picture_error": 1e-6}  # fmt: skip
    return CM3Leon(bundle)


def test_warnings_of_words_and_pictures(knowing: CM3Leon) -> None:
    made = knowing.generate("a red cat", max_tokens=2)
    assert made.warnings == ("model 'known' does not know 'cat'; it knows small things",)
    assert knowing.generate("A RED circle", max_tokens=2).warnings == ()
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    (told,) = knowing.generate(noise, max_tokens=2).warnings
    assert told.startswith("model 'known' was shown no such picture: ") and told.endswith("it knows small things")
    both = knowing.answer(noise, "a dog", max_tokens=2).warnings
    assert len(both) == 2 and "'dog'" in both[0]  # the words of the template are not the user's
    assert len(knowing.edit(noise, "a RED dog").warnings) == 2
    assert "'cat'" in knowing.ask("boxes", {"caption": "a circle", "objects": [("cat", (0, 0, 9, 9))]}).warnings[0]


def test_a_long_list_of_words_is_cut(knowing: CM3Leon) -> None:
    words = [f"w{i}" for i in range(WORDS_SHOWN + 3)]
    (told,) = knowing.generate(" ".join(words), max_tokens=2).warnings
    assert "and 3 more; it knows" in told and "'w0'" in told and f"'{words[-1]}'" not in told


def test_words_of_documents_that_are_read_are_known(knowing: CM3Leon) -> None:
    shown = Document.of("a cat", Image(PIL.Image.new("RGB", (32, 32))))
    assert knowing.generate("a red cat", documents=[shown], max_tokens=2).warnings == ()


def test_spelling_makes_no_difference(knowing: CM3Leon) -> None:
    one, two = (knowing.generate(text, seed=3) for text in ("a red circle", "A Red CIRCLE"))
    assert one.image.tobytes() == two.image.tobytes() and one.scores == two.scores
    filled = knowing.generate(["A ", Gap(), " CIRCLE"], max_tokens=3).text
    assert filled.startswith("a") and filled.endswith(" circle")


def test_a_model_without_a_world_warns_of_nothing() -> None:
    model = CM3Leon(tiny_model.bundle())
    made = model.generate("A cat", max_tokens=2)
    assert made.warnings == () and made.prompt.text == "A cat"


BAD = [{"says": 1, "words": []}, {"words": []}, {"says": "x", "words": "abc"}, {"says": "x", "words": [], "z": 1}]


@pytest.mark.parametrize("world", [7, *BAD, {"says": "x", "words": [], "spellings": ["a"]}])
def test_a_world_that_is_none_is_refused(world: object) -> None:
    with pytest.raises(CheckpointError, match="^bundle 'x': about.world"):
        World.of({"world": world}, "x")


def test_scenes_are_inside_and_photographs_outside() -> None:
    tokenizer = CM3Leon.load("scenes").codec.image
    assert tokenizer is not None
    rng, scenes = np.random.default_rng(5), []
    for i in range(24):
        scene = draw(random_scene(rng, "test"), (128, 256)[i % 2])
        scenes.append(Image(scene))
        packed = io.BytesIO()
        scene.save(packed, "JPEG", quality=40)
        scenes.append(Image(PIL.Image.open(io.BytesIO(packed.getvalue()))))
    assert max(errors(tokenizer, scenes)) < PICTURE_ERROR
    if not PHOTOS.is_dir():
        pytest.skip("no photographs here")
    photos = [Image.open(path) for path in sorted(PHOTOS.iterdir())[::40]]
    assert len(photos) > 20 and min(errors(tokenizer, photos)) > PICTURE_ERROR


def test_the_command_tells_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from cm3.cli.main import main

    bundle = tiny_model.bundle()
    bundle.about["world"] = {"says": "small things", "words": [*EDGE.words]}
    bundles.save(bundle, tmp_path / "known")
    args = ["generate", "a red cat", "--model", str(tmp_path / "known"), "--out", str(tmp_path / "out"), "--json"]
    assert main(args) == 0
    ran = capfd.readouterr()
    told = "model 'known' does not know 'cat'; it knows small things"
    assert f"cm3: {told}\n" in ran.err and json.loads(ran.out.splitlines()[-1])["warnings"] == [told]
    shutil.rmtree(tmp_path / "out")
