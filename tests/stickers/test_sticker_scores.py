"""The scorer under test: a generator that really draws and reads scores 1, spoiled ones score what they deserve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import pytest
from tiny_stickers import sheet_of

from cm3.document import Document, Gap, Image
from cm3.errors import ConfigError
from cm3.stickers.artwork import KINDS
from cm3.stickers.drawing import draw
from cm3.stickers.eval.sticker_cases import cases
from cm3.stickers.eval.sticker_scores import PLAIN, evaluate_stickers
from cm3.stickers.pieces import PIECES
from cm3.stickers.sentences import holds, parse
from cm3.stickers.verify import read
from cm3.stickers.world import HELD_OUT, HELD_OUT_PLACES, split_of

N = 12
DRAWN = ("text_to_image", "unguided", "held_out", "region_infill")
"""Drawn after captions that say everything, or all but row and column."""
WHOLE = {"exact": 1, "exact_1": 1, "exact_2": 1, "exact_3": 1, "exact_4": 1, "readable": 1}


@dataclass(frozen=True)
class Made:
    document: Document


class Oracle:
    """Draws what a caption says, knows the captions of pictures, and fills holes, by the world's own rules.

    `spoil` changes a picture or a caption that it made.
    """

    image_codes = 4

    def __init__(self, size: int = 256, n: int = N, seed: int = 5, spoil: Callable[[Any], Any] = lambda made: made):
        self.image_size, self.grid, self.spoil = size, (16, 16), spoil
        self.calls: list[dict[str, Any]] = []
        self.captions = {
            (case.prompt.text, case.prompt.images[-1].pixels.tobytes()): case.caption
            for task in ("image_to_text", "text_infill")
            for case in cases(task, seed, n, "test", size)
        }
        self.wished = {case.caption: case.sheet for case in cases("wishes", seed, n, "test", size)}

    def generate_many(self, prompts: Sequence[Document], *, seeds: Sequence[int], **sampling: Any) -> list[Made]:
        assert len(seeds) == len(prompts)
        self.calls.append(sampling)
        return [Made(self.fill(prompt)) for prompt in prompts]

    def fill(self, prompt: Document) -> Document:
        if prompt.parts[-1] == Gap("image"):
            sheet = self.wished.get(prompt.text) or sheet_of(parse(prompt.text))
            return Document.of(prompt.text, self.spoil(draw(sheet, self.image_size)))
        given = prompt.images[-1]
        if given.gap is None:
            return Document.of(self.spoil(self.captions[prompt.text, given.pixels.tobytes()]), given)
        picture = given.pixels.copy()
        wanted = draw(sheet_of(parse(prompt.text), read(given.pixels).sheet), self.image_size)
        picture.paste(wanted.crop(given.gap), given.gap)
        return Document.of(prompt.text, self.spoil(picture))

    def reconstruct(self, pictures: list[PIL.Image.Image]) -> tuple[list[PIL.Image.Image], np.ndarray]:
        codes = np.zeros((len(pictures), *self.grid), dtype=np.int32)
        codes[:, 0] = 3
        return [self.spoil(PIL.Image.fromarray(np.asarray(p) ^ 1)) for p in pictures], codes


@pytest.fixture(scope="module")
def perfect() -> dict[str, Any]:
    return evaluate_stickers(Oracle(), N, seed=5, batch=7)


def test_a_generator_that_is_always_right_scores_one(perfect: dict[str, Any]) -> None:
    tasks = perfect["tasks"]
    assert tuple(tasks) == PLAIN
    for task in DRAWN[:-1]:
        assert tasks[task] == WHOLE | dict.fromkeys(("kinds", "sizes", "places", "ground", "count"), 1)
    assert tasks["loose"] == tasks["wishes"] == WHOLE | {"count": 1}
    assert tasks["region_infill"]["exact"] == tasks["region_infill"]["outside_unchanged"] == 1
    for task in ("image_to_text", "text_infill"):
        assert tasks[task] == WHOLE | dict.fromkeys(("kinds", "ground", "count"), 1)
    # every level is one off: 20 log10(255)
    assert tasks["image_tokenizer"]["psnr_db"] == pytest.approx(48.13, abs=0.01)
    assert tasks["image_tokenizer"]["held_out_psnr_db"] == pytest.approx(48.13, abs=0.01)
    assert tasks["image_tokenizer"]["exact"] == tasks["image_tokenizer"]["held_out_exact"] == 1
    assert tasks["image_tokenizer"]["stickers"] == tasks["image_tokenizer"]["held_out_stickers"] == 1
    assert tasks["image_tokenizer"]["codes_used"] == 0.5
    assert tasks["image_tokenizer"]["again"] == tasks["image_tokenizer"]["held_out_again"] == 1
    assert (perfect["n"], perfect["seed"], perfect["split"]) == (N, 5, "test")
    for details in perfect["details"].values():
        assert details["missed"] == [] and set(details["by_kind"].values()) == {1} and details["images_per_s"] > 0


class Forgetful(Oracle):
    """It gives another code for a quarter of the cells where a picture is not as it was drawn."""

    def reconstruct(self, pictures: list[PIL.Image.Image]) -> tuple[list[PIL.Image.Image], np.ndarray]:
        back, codes = super().reconstruct(pictures)
        drawn = [np.array_equal(np.asarray(p), np.asarray(draw(read(p).sheet, self.image_size))) for p in pictures]
        rows = self.grid[0] // 4
        codes[[not one for one in drawn], -rows:] = 1
        return back, codes


def test_codes_that_are_not_given_again_are_counted() -> None:
    figures = evaluate_stickers(Forgetful(), N, seed=5, tasks=["image_tokenizer"])["tasks"]["image_tokenizer"]
    assert figures["again"] == figures["held_out_again"] == 0.75


class Looking(Oracle):
    """It keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.saw: list[np.ndarray] = []

    def generate_many(self, prompts: Any, **settings: Any) -> Any:
        self.saw += [np.asarray(image.pixels) for prompt in prompts for image in prompt.images]
        return [Made(Document.of("nothing")) for _ in prompts]


def test_pictures_may_be_given_as_jpeg() -> None:
    seen = {}
    for jpeg in (None, 75, 20):
        model = Looking()
        report = evaluate_stickers(model, 4, seed=5, tasks=["image_to_text", "text_infill"], jpeg=jpeg)
        assert report["jpeg"] == jpeg
        seen[jpeg] = np.stack(model.saw).astype(int)
    near, far = (np.abs(seen[quality] - seen[None]).mean() for quality in (75, 20))
    assert 0 < near < far < 20


def without_a_corner(made: Any) -> Any:
    """A picture loses its upper left quarter, a caption its kinds."""
    if isinstance(made, str):
        (kind,) = {m.kind for m in parse(made).mentions[:1]}
        return made.replace(str(kind), next(k for k in KINDS if k != kind), 1)
    made = made.copy()
    made.paste(made.getpixel((0, 0)), (0, 0, made.width // 2, made.width // 2))
    return made


def test_wrong_facts_are_counted_as_wrong_and_told() -> None:
    report = evaluate_stickers(Oracle(spoil=without_a_corner), N, seed=5)
    tasks = report["tasks"]
    # where nothing stands in that quarter, and a sheet with none, a picture is right still
    for task in ("text_to_image", "region_infill", "held_out"):
        assert tasks[task]["exact"] < 0.8 and tasks[task]["exact_4"] == 0, task
    assert tasks["text_to_image"]["ground"] == 1 and 0.4 < tasks["text_to_image"]["kinds"] < 1
    assert tasks["text_to_image"]["count"] < 1
    assert tasks["image_to_text"]["exact"] == 0 and tasks["text_infill"]["exact"] < 0.2
    assert tasks["image_to_text"]["readable"] == tasks["image_to_text"]["ground"] == 1
    assert tasks["image_to_text"]["kinds"] < 1
    assert tasks["image_tokenizer"]["exact"] < 0.8 and tasks["image_tokenizer"]["psnr_db"] < 48
    missed = report["details"]["text_to_image"]["missed"]
    assert missed and all("top left: nothing, not" in one["why"] and one["asked"] for one in missed[-1:])
    assert "there is no" in report["details"]["image_to_text"]["missed"][0]["why"]


def with_a_blot(made: Any) -> Any:
    """A picture has a blot in its upper left corner, where no sticker stands."""
    made = made.copy()
    dark = max(made.getpixel((0, 0))) < 128
    made.paste((255, 255, 255) if dark else (0, 0, 0), (0, 0, 9, 9))
    return made


def test_a_flaw_of_the_tokenizer_spoils_its_picture_and_not_the_stickers_in_it() -> None:
    report = evaluate_stickers(Oracle(spoil=with_a_blot), N, seed=5, tasks=["image_tokenizer"])
    figures = report["tasks"]["image_tokenizer"]
    assert figures["exact"] == figures["held_out_exact"] == 0
    assert figures["stickers"] == figures["held_out_stickers"] == 1
    report = evaluate_stickers(Oracle(spoil=without_a_corner), N, seed=5, tasks=["image_tokenizer"])
    assert 0.2 < report["tasks"]["image_tokenizer"]["stickers"] < 1


class Mute(Oracle):
    """Gives no picture, and text that is no sentence."""

    def fill(self, prompt: Document) -> Document:
        return Document.of("a red")


def test_no_picture_and_no_sentence_are_wrong_and_not_an_error() -> None:
    tasks = evaluate_stickers(Mute(), 4, seed=0, tasks=PLAIN[:-1])["tasks"]
    assert len(tasks) == len(PLAIN) - 1 and all(set(figures.values()) == {0} for figures in tasks.values())
    assert "outside_unchanged" in tasks["region_infill"]


@pytest.mark.parametrize("inside", [True, False])
def test_one_level_outside_the_cells_of_the_box_is_noticed(inside: bool) -> None:
    class Careless(Oracle):
        def fill(self, prompt: Document) -> Document:
            done = super().fill(prompt)
            picture, box = done.images[-1].pixels, prompt.images[-1].gap
            assert box is not None
            # the first column of the cell where the box begins, or the one before it (or past the box's last cell)
            cell = box[0] // 16 * 16
            x = cell if inside else cell - 1 if cell else -(-box[2] // 16) * 16
            r, g, b = picture.getpixel((x, box[1]))
            picture.putpixel((x, box[1]), (r ^ 1, g, b))
            return Document.of(done.text, picture)

    figures = evaluate_stickers(Careless(), 8, seed=1, tasks=["region_infill"])["tasks"]["region_infill"]
    assert (figures["exact"], figures["outside_unchanged"]) == (1, float(inside))


def test_sampling_is_passed_on_and_unguided_means_guidance_one() -> None:
    model = Oracle()
    evaluate_stickers(
        model, 2, seed=0, batch=2, tasks=["text_to_image", "unguided"], sampling={"guidance": 3.0, "top_p": 0.9}
    )
    assert model.calls == [{"guidance": 3.0, "top_p": 0.9}, {"guidance": 1.0, "top_p": 0.9, "contrast": None}]


def test_same_seed_same_cases_alone_or_together_in_any_batch() -> None:
    spoilt = Oracle(seed=3, spoil=without_a_corner)
    alone = evaluate_stickers(spoilt, 8, seed=3, batch=2, tasks=["image_to_text", "region_infill"])
    again = evaluate_stickers(spoilt, 8, seed=3, batch=8, tasks=["region_infill"])
    other = evaluate_stickers(spoilt, 8, seed=4, tasks=["region_infill"])
    for report in (alone, again, other):
        report["details"]["region_infill"].pop("images_per_s")
    assert alone["tasks"]["region_infill"] == again["tasks"]["region_infill"]
    assert alone["details"]["region_infill"] == again["details"]["region_infill"]
    assert alone["details"]["region_infill"] != other["details"]["region_infill"]


def test_progress_counts_each_task_to_its_end() -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate_stickers(Oracle(), 5, seed=5, batch=2, tasks=PLAIN[-2:], progress=lambda *a: seen.append(a))
    assert seen == [("region_infill", i, 5) for i in (2, 4, 5)] + [("image_tokenizer", i, 10) for i in (2, 4, 6, 8, 10)]


def test_what_cannot_be_measured_is_refused() -> None:
    model: Any = Oracle(n=0)
    for changes, message in (
        ({"n": 0}, "n=0: must be at least 1"),
        ({"batch": 0}, "batch=0: must be at least 1"),
        ({"tasks": ["text_infil"]}, "Did you mean 'text_infill'"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate_stickers(model, **{"n": 1, **changes})  # type: ignore[arg-type]
    small = Oracle(64, n=0)
    with pytest.raises(
        ConfigError, match="image_size=64: pictures are measured from 128 pixels on; leave out held_out"
    ):
        evaluate_stickers(small, 1, tasks=["held_out", "image_to_text"])


def test_cases_are_of_sheets_that_no_training_showed() -> None:
    for task in ("text_to_image", "image_to_text", "text_infill"):
        found = list(cases(task, 0, 20, "test", 256))
        assert [len(c.sheet.stickers) for c in found] == [1, 2, 3, 4] * 5
        assert {split_of(c.sheet) for c in found} == {"test"} and len({c.sheet for c in found}) == 20
        assert all(holds(parse(c.caption), c.sheet) for c in found)
        assert not {s.kind for c in found for s in c.sheet.stickers} & {*HELD_OUT}
    loose = list(cases("loose", 0, 200, "test", 256))
    assert {split_of(c.sheet) for c in loose} == {"test"} and all(holds(parse(c.caption), c.sheet) for c in loose)
    for case in cases("held_out", 0, 8, "held_out", 256):
        assert any((s.kind, s.place) in HELD_OUT_PLACES for s in case.sheet.stickers)
    plain, unguided = (list(cases(task, 0, 4, "test", 256)) for task in ("text_to_image", "unguided"))
    assert [(c.prompt, c.seed) for c in plain] == [(c.prompt, c.seed) for c in unguided]


def test_hidden_pieces_are_of_every_kind_and_give_the_caption_back() -> None:
    found = list(cases("text_infill", 0, 100, "test", 16))
    assert {case.style for case in found} == set(PIECES)
    for case in found:
        texts = [part for part in case.prompt.parts if not isinstance(part, Image)]
        assert texts.count(Gap("text")) == 1 and len(case.prompt.images) == 1
        at = texts.index(Gap("text"))
        before, after = (Document(tuple(p)).text for p in (texts[:at], texts[at + 1 :]))
        hidden = case.caption[len(before) : len(case.caption) - len(after)]
        assert before + hidden + after == case.caption and 1 <= len(hidden.split()) <= 5
        assert hidden == hidden.strip()


@pytest.mark.parametrize("size", [256, 128])
def test_redrawn_sheets_differ_in_the_box_only_and_are_never_held_out(size: int) -> None:
    for case in cases("region_infill", 0, 30, "test", size):
        given = case.prompt.images[-1]
        assert given.gap is not None and split_of(case.sheet) in ("train", "test")
        before = read(given.pixels).sheet
        assert before is not None and before != case.sheet and split_of(before) == "test"
        wanted = given.pixels.copy()
        wanted.paste(draw(case.sheet, size).crop(given.gap), given.gap)
        assert read(wanted).sheet == case.sheet
