"""The scorer under test: a generator that really draws and reads scores 1, spoiled ones score what they deserve."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
import pytest

from cm3.document import Document, Gap, Image, Text
from cm3.errors import ConfigError
from cm3.scenes.drawing import draw
from cm3.scenes.eval.scene_cases import PIECES, hidden_piece, redrawn
from cm3.scenes.eval.scene_scores import TASKS, evaluate_scenes
from cm3.scenes.scene import COLOURS, PLACES, SHAPES, SIZES, Object, Scene, split_of
from cm3.scenes.sentences import Statement, describe, holds, parse
from cm3.scenes.verify import read

N = 24


@dataclass(frozen=True)
class Made:
    document: Document


class Oracle:
    """Draws what a caption says, says what a picture shows, and fills holes, all by the world's own rules."""

    image_size, grid, image_codes = 128, (8, 8), 4

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def generate_many(self, prompts: Sequence[Document], *, seeds: Sequence[int], **sampling: Any) -> list[Made]:
        assert len(seeds) == len(prompts)
        self.calls.append(sampling)
        return [Made(self.fill(p, np.random.default_rng(s))) for p, s in zip(prompts, seeds, strict=True)]

    def fill(self, prompt: Document, rng: np.random.Generator) -> Document:
        if prompt.parts[-1] == Gap("image"):
            return Document.of(prompt.text, draw(scene_of(parse(prompt.text)), self.image_size, rng))
        given = prompt.images[-1]
        shown = read(given.pixels).scene
        assert shown is not None
        if given.gap is None:
            return Document.of(caption_around(prompt, shown, rng), given)
        picture = given.pixels.copy()
        wanted = next(s for s in edits(shown, given.gap) if holds(parse(prompt.text), s))
        picture.paste(draw(wanted, self.image_size).crop(given.gap), given.gap)
        return Document.of(prompt.text, picture)

    def reconstruct(self, pictures: list[PIL.Image.Image]) -> tuple[list[PIL.Image.Image], np.ndarray]:
        codes = np.zeros((len(pictures), *self.grid), dtype=np.int32)
        codes[:, 0] = 3
        return [PIL.Image.fromarray(np.asarray(p) ^ 1) for p in pictures], codes


def scene_of(statement: Statement) -> Scene:
    """Some scene of which a statement holds: the missing places and sizes are tried until one does."""
    for places in itertools.permutations(PLACES, len(statement.mentions)):
        objects = tuple(
            Object(m.place or places[i], m.shape, m.colour, m.size or "small") for i, m in enumerate(statement.mentions)
        )
        if len({o.place for o in objects}) == len(objects):
            scene = Scene(statement.background, objects)
            if holds(statement, scene):
                return scene
    raise AssertionError(statement)


def caption_around(prompt: Document, scene: Scene, rng: np.random.Generator) -> str:
    """A true caption that begins and ends as the prompt does."""
    at = prompt.parts.index(Gap("text"))
    before, after = (Document(tuple(parts)).text for parts in (prompt.parts[:at], prompt.parts[at:]))
    for _ in range(50000):
        caption = describe(scene, rng)
        if caption.startswith(before) and caption.endswith(after) and len(caption) > len(before) + len(after):
            return caption
    raise AssertionError(f"{before} ... {after}")


def edits(scene: Scene, box: tuple[int, int, int, int]) -> list[Scene]:
    """Every scene that differs from one in the quarter of a box only."""
    middle = (box[0] + box[2]) / 2 / 128, (box[1] + box[3]) / 2 / 128
    place = f"{'top' if middle[1] < 0.5 else 'bottom'} {'left' if middle[0] < 0.5 else 'right'}"
    others = tuple(o for o in scene.objects if o.place != place)
    new = [Object(place, shape, colour, size) for shape in SHAPES for colour in COLOURS for size in SIZES]
    return [Scene(scene.background, (*others, o)) for o in new] + ([Scene(scene.background, others)] if others else [])


@pytest.fixture(scope="module")
def perfect() -> dict[str, Any]:
    return evaluate_scenes(Oracle(), N, seed=5, batch=7)


def test_a_generator_that_is_always_right_scores_one(perfect: dict[str, Any]) -> None:
    assert perfect["text_to_image"] == {"exact": 1, "exact_1": 1, "unguided": 1, "held_out": 1}
    assert perfect["image_to_text"] == {"exact": 1}
    assert perfect["text_infill"] == {"exact": 1}
    assert perfect["region_infill"] == {"exact": 1, "outside_unchanged": 1}
    # Every level is one off: 20 log10(255).
    assert perfect["image_tokenizer"]["psnr_db"] == pytest.approx(48.13, abs=0.01)
    assert perfect["image_tokenizer"]["codes_used"] == 0.5
    assert perfect["details"]["image_tokenizer"]["exact"] == 1
    assert (perfect["n"], perfect["seed"]) == (N, 5)
    drawing = perfect["details"]["text_to_image"]
    assert set(drawing["by_objects"]) == {"1", "2", "3", "4"}
    assert all(drawing[name] == 1 for name in ("shape", "colour", "size", "place", "background", "count"))


class Wrong(Oracle):
    """Right in form, wrong in fact: each picture loses a quarter, each caption has its colours changed."""

    def fill(self, prompt: Document, rng: np.random.Generator) -> Document:
        done = super().fill(prompt, rng)
        if prompt.images and prompt.images[-1].gap is None:
            text = " ".join("blue" if w == "red" else "red" if w in COLOURS else w for w in done.text.split())
            text = text.replace("an red", "a red")
            assert parse(text)
            return Document.of(text, done.images[-1])
        picture = done.images[-1].pixels.copy()
        picture.paste(picture.getpixel((0, 0)), (0, 0, 64, 64))
        picture.paste(picture.getpixel((0, 0)), (64, 64, 128, 128))
        return Document.of(done.text, picture)


def test_wrong_facts_are_counted_as_wrong() -> None:
    result = evaluate_scenes(Wrong(), N, seed=5, tasks=TASKS[:-1])
    # Pictures of objects at the other two corners, or moved there by a relation, stay right.
    assert result["text_to_image"]["exact"] <= 0.4
    assert result["text_to_image"]["held_out"] <= 0.4
    assert result["image_to_text"]["exact"] == 0
    assert result["text_infill"]["exact"] == 0
    assert result["region_infill"]["exact"] <= 0.4
    assert result["region_infill"]["outside_unchanged"] <= 0.4
    assert result["details"]["image_to_text"]["readable"] == 1
    assert result["details"]["text_to_image"]["background"] == 1
    assert "image_tokenizer" not in result


class Mute(Oracle):
    """Gives no picture, and text that is no sentence."""

    def fill(self, prompt: Document, rng: np.random.Generator) -> Document:
        return Document.of("a red")


def test_no_picture_and_no_sentence_are_wrong_and_not_an_error() -> None:
    result = evaluate_scenes(Mute(), 3, seed=0, tasks=TASKS[:-1])
    assert result["text_to_image"]["exact"] == 0
    assert result["image_to_text"]["exact"] == result["text_infill"]["exact"] == 0
    assert result["region_infill"] == {"exact": 0, "outside_unchanged": 0}
    assert result["details"]["image_to_text"]["readable"] == 0


class Careless(Oracle):
    """Redraws right, and changes one level of one pixel: of the box's cells, or beyond them."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.inside = inside

    def fill(self, prompt: Document, rng: np.random.Generator) -> Document:
        done = super().fill(prompt, rng)
        picture, box = done.images[-1].pixels, prompt.images[-1].gap
        assert box is not None
        # The first column of the cell where the box begins, or the one before it (or past the box's last cell).
        cell = box[0] // 16 * 16
        x = cell if self.inside else cell - 1 if cell else -(-box[2] // 16) * 16
        r, g, b = picture.getpixel((x, box[1]))
        picture.putpixel((x, box[1]), (r ^ 1, g, b))
        return Document.of(done.text, picture)


@pytest.mark.parametrize("inside", [True, False])
def test_one_level_outside_the_cells_of_the_box_is_noticed(inside: bool) -> None:
    result = evaluate_scenes(Careless(inside), 12, seed=1, tasks=["region_infill"])
    assert result["region_infill"] == {"exact": 1, "outside_unchanged": float(inside)}


def test_sampling_is_passed_on_and_unguided_means_guidance_one() -> None:
    model = Oracle()
    evaluate_scenes(
        model, 2, seed=0, batch=2, tasks=["text_to_image", "unguided"], sampling={"guidance": 3.0, "top_p": 0.9}
    )
    assert model.calls == [{"guidance": 3.0, "top_p": 0.9}, {"guidance": 1.0, "top_p": 0.9, "contrast": None}]


def test_same_seed_same_cases_alone_or_together_in_any_batch() -> None:
    alone = evaluate_scenes(Wrong(), 9, seed=3, batch=2, tasks=["image_to_text", "region_infill"])
    again = evaluate_scenes(Wrong(), 9, seed=3, batch=9, tasks=["region_infill"])
    other = evaluate_scenes(Wrong(), 9, seed=4, tasks=["region_infill"])
    for result in (alone, again, other):
        result["details"]["region_infill"].pop("images_per_s")
    assert alone["region_infill"] == again["region_infill"]
    assert alone["details"]["region_infill"] == again["details"]["region_infill"]
    assert alone["details"]["region_infill"] != other["details"]["region_infill"]


def test_progress_counts_each_task_to_its_end() -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate_scenes(
        Oracle(), 5, seed=0, batch=2, tasks=["image_to_text", "image_tokenizer"], progress=lambda *a: seen.append(a)
    )
    assert seen == [(task, done, 5) for task in ("image_to_text", "image_tokenizer") for done in (2, 4, 5)]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="n=0: must be at least 1"):
        evaluate_scenes(Oracle(), 0)
    with pytest.raises(ConfigError, match="batch=0: must be at least 1"):
        evaluate_scenes(Oracle(), 1, batch=0)
    with pytest.raises(ConfigError, match="Did you mean 'text_infill'"):
        evaluate_scenes(Oracle(), 1, tasks=["text_infil"])


def test_hidden_pieces_are_of_every_kind_and_give_the_caption_back() -> None:
    rng = np.random.default_rng(0)
    cases = [hidden_piece(rng, "test", 64) for _ in range(120)]
    assert {case.style for case in cases} == set(PIECES)
    for case in cases:
        texts = [part for part in case.prompt.parts if not isinstance(part, Image)]
        assert texts.count(Gap("text")) == 1 and len(case.prompt.images) == 1
        at = texts.index(Gap("text"))
        before, after = (Document(tuple(p)).text for p in (texts[:at], texts[at + 1 :]))
        hidden = case.caption[len(before) : len(case.caption) - len(after)]
        assert before + hidden + after == case.caption and 1 <= len(hidden.split()) <= 5
        assert hidden == hidden.strip()
        assert isinstance(texts[0], Text | Gap)


def test_redrawn_scenes_differ_in_the_box_only_and_are_never_held_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        case = redrawn(rng, "test", 128)
        given = case.prompt.images[-1]
        assert given.gap is not None and split_of(case.scene) in ("train", "test")
        before = read(given.pixels).scene
        assert before is not None and before != case.scene and case.scene in edits(before, given.gap)
        # Nothing of the old object sticks out of the box: with the box wiped, nothing stands in the quarter.
        wiped = replace(given, gap=None).pixels.copy()
        wiped.paste(given.pixels.getpixel((0, 0)), given.gap)
        x0, y0 = given.gap[0] // 64 * 64, given.gap[1] // 64 * 64
        assert len(wiped.crop((x0, y0, x0 + 64, y0 + 64)).getcolors()) == 1
