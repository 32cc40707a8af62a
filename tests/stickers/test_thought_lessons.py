"""Lessons of thinking: what a model is asked for a thought with and goes on from, token for token; and all is true."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lesson_codec import codec

from cm3.document import Document, Gap, Image, Text
from cm3.errors import DataError
from cm3.sequence.mask import cm3_unmask
from cm3.stickers.data.sticker_examples import TASKS, make_example
from cm3.stickers.data.sticker_lessons import Answer, LessonWeights, StickerLessons, make_lesson
from cm3.stickers.data.sticker_lessons import encode_lessons as encode
from cm3.stickers.data.task_shares import TaskShares
from cm3.stickers.drawing import draw
from cm3.stickers.sentences import holds, outright, parse
from cm3.stickers.sticker_boxes import box_of
from cm3.stickers.sticker_edits import EDITS, kept_order, random_edit
from cm3.stickers.structure import STRUCTURES
from cm3.stickers.world import PLACES, Sheet, Sticker, by_share, random_sheet
from cm3.tasks import find_task
from cm3.tasks.thought import END, ORDER, answered_from, before_answer, before_change, before_picture, drawn_from

ALOUD = LessonWeights(think=1.0, aloud=1.0)
QUIET = LessonWeights(think=1.0, aloud=0.0)
PICTURES = ("boxes", *STRUCTURES)


def lessons(task: str, law: LessonWeights, number: int = 4) -> list[Any]:
    return [make_lesson(task, np.random.default_rng([7, i]), 256, "train", law) for i in range(number)]


def example(task: str, number: int, law: LessonWeights) -> Any:
    """The example that lesson `number` is made of."""
    rng = np.random.default_rng([7, number])
    rng.random(2)  # whether it thinks, and aloud
    return make_example(task, rng, 256, "train", law.number(rng))


def opened(lesson: Any) -> tuple[Any, ...]:
    """A lesson as the prompt that a user's request becomes."""
    return tuple(Gap("text" if isinstance(p.part, Text) else "image") if isinstance(p, Answer) else p for p in lesson)


def words(parts: Any) -> list[Any]:
    """Parts to compare: texts and gaps as they are, pictures by their bytes."""
    return [part.pixels.tobytes() if isinstance(part, Image) else part for part in parts]


def said(lesson: Any) -> list[str]:
    return [part.part.text for part in lesson if isinstance(part, Answer) and isinstance(part.part, Text)]


def request(one: Any) -> Any:
    task = find_task(one.task)
    asks = {f: one.fields[f] for f in task.template(one.template).fields if f not in task.gives}
    return task.prompt(one.template, **asks).parts


@pytest.mark.parametrize("task", PICTURES)
def test_the_thought_of_a_picture_is_asked_for_as_generation_asks(task: str) -> None:
    for i, (aloud, quiet) in enumerate(zip(lessons(task, ALOUD), lessons(task, QUIET), strict=True)):
        one = example(task, i, ALOUD)
        (thought,) = said(aloud)
        assert words(opened(aloud)) == words(before_picture(request(one)))
        assert holds(parse(thought), one.truth.sheet)
        full = outright(one.truth.sheet)
        assert words(opened(quiet)) == words(drawn_from(request(one), full)) and holds(parse(full), one.truth.sheet)
        (drawn,) = [part.part for part in quiet if isinstance(part, Answer)]
        assert drawn.pixels.tobytes() == one.fields["image"].pixels.tobytes()


def test_the_thought_of_boxes_goes_through_them_in_their_order() -> None:
    for i, lesson in enumerate(lessons("boxes", ALOUD)):
        one = example("boxes", i, ALOUD)
        mentions = parse(said(lesson)[0]).mentions
        places = {box_of(s): s.place for s in one.truth.sheet.stickers}
        assert [m.place for m in mentions] == [places[box] for _, box in one.truth.said]


def test_edits_of_one_picture_are_each_thought_to_their_end() -> None:
    found = lessons("edit", ALOUD, 12)
    assert {len(said(lesson)) for lesson in found} > {1}
    for lesson in found:
        (before,) = [part for part in lesson if isinstance(part, Image)]
        texts = [part.text for part in lesson if isinstance(part, Text)]
        order, first, *others = texts
        asked = find_task("edit").prompt(image1=before, instruction=first.removesuffix(f" {ORDER}")).parts
        assert words(opened(lesson)[:4]) == words(before_picture(asked)[:4]) and order == asked[0].text  # type: ignore[union-attr]
        assert others[-1] == END and all(text.endswith(ORDER) for text in others[:-1])
        assert len(set(texts)) == len(texts), "no instruction comes twice"


def test_an_edit_may_be_thought_over_in_words_alone() -> None:
    law = LessonWeights(think=1.0, aloud=1.0, shown=True)
    for i, lesson in enumerate(lessons("edit", law, 8)):
        rng = np.random.default_rng([7, i])
        rng.random(2)
        number = law.number(rng)
        edit = random_edit(rng, "train", EDITS[by_share(rng, law.edits)], None, number)
        asked = find_task("edit").prompt(image1=draw(edit.before), instruction=edit.instruction).parts
        assert opened(lesson) == before_change(asked, outright(edit.before))
        assert said(lesson) == [outright(edit.after)]


def test_the_thought_of_an_edit_may_keep_the_order_of_its_picture() -> None:
    for seed in range(40):
        edit = random_edit(np.random.default_rng(seed), "train", EDITS[seed % len(EDITS)], None, 3)
        order = kept_order(edit.before, edit.after)
        assert sorted(order) == list(range(len(edit.after.stickers)))
        before = list(parse(outright(edit.before)).mentions)
        after = list(parse(outright(edit.after, order)).mentions)
        if edit.kind not in ("remove", "add"):
            assert sum(a != b for a, b in zip(before, after, strict=True)) == (edit.kind != "ground")
        elif edit.kind == "add":
            assert after[:-1] == before
        else:
            assert after == [mention for mention in before if mention in after]
    law, other = (
        LessonWeights(think=1.0, aloud=1.0, shown=True, kept_order=True),
        LessonWeights(think=1.0, aloud=1.0, shown=True),
    )
    moved = [(said(a), said(b)) for a, b in zip(lessons("edit", law, 30), lessons("edit", other, 30), strict=True)]
    assert any(a != b for a, b in moved)
    assert all(_sheet(a[0]) == _sheet(b[0]) for a, b in moved), "the same sheet in another order"


def test_an_edit_is_drawn_from_its_thought_and_holds_on_to_its_picture() -> None:
    for lesson in lessons("edit", QUIET):
        for i, part in enumerate(lesson):
            if isinstance(part, Answer):
                assert part.like == i - 2 and parse(lesson[i - 1].text).ground


@pytest.mark.parametrize("task", ["vqa2", "visdial", "scienceqa", "image_paragraph"])
def test_an_answer_has_the_thought_before_its_words(task: str) -> None:
    for lesson, plain in zip(lessons(task, QUIET), lessons(task, ALOUD), strict=True):
        assert isinstance(lesson[0], Text) and words(opened(lesson)) == words(opened(plain)), "it is never said there"
        thought, asked = lesson[0].text.split(f" ground{END} ", 1)
        (picture,) = [part for part in lesson if isinstance(part, Image)]
        true = [Text(asked), *lesson[1:]]
        assert words(lesson) == words(answered_from(true, f"{thought} ground"))
        assert len(parse(f"{thought} ground").mentions) >= 1 and picture.pixels.size == (256, 256)


def test_what_a_picture_shows_is_thought_as_an_answer_asks_for_it() -> None:
    for i, lesson in enumerate(lessons("coco_captions", ALOUD)):
        one = example("coco_captions", i, ALOUD)
        assert words(opened(lesson)) == words(before_answer((Gap("text"), one.fields["image"])))
        assert said(lesson) == [outright(one.truth.sheet)]


@pytest.mark.parametrize("task", ["coco_captions", "vqa2", "visdial", "scienceqa", "image_paragraph"])
def test_answers_may_be_read_off_a_thought_alone(task: str) -> None:
    law = LessonWeights(think=1.0, aloud=0.0, read=1.0)
    for lesson in lessons(task, law):
        texts, open_ = [part for part in lesson if isinstance(part, Text)], opened(lesson)
        thought = texts[0].text.split(END)[0]
        assert parse(thought).ground and said(lesson)
        with_picture = isinstance(lesson[-1], Image)
        # without words after its answer it would be gone on with from the left, as no user's prompt is
        assert with_picture == (task in ("coco_captions", "image_paragraph")) and not isinstance(open_[-1], Gap)
        if task == "coco_captions":
            assert holds(parse(said(lesson)[0]), _sheet(thought)), "the caption says what the thought does"
    loud = LessonWeights(think=1.0, aloud=1.0, read=1.0)
    texts = [said(one) for one in lessons("coco_captions", loud)]
    assert texts == [said(one) for one in lessons("coco_captions", ALOUD)], "and is said as before"


def _sheet(thought: str) -> Sheet:
    told = parse(thought)
    return Sheet(str(told.ground), tuple(Sticker(str(m.place), str(m.kind), str(m.size)) for m in told.mentions))


def test_holes_are_filled_with_what_a_picture_or_a_thought_says() -> None:
    every = ("plain", "loose", "words", "holes", "regions", *TASKS)
    mix = TaskShares(**{task: float(task == "holes") for task in every})
    forms = set()
    for law in (LessonWeights(think=0.5, read=0.5), LessonWeights()):
        source = StickerLessons(codec(), 1, mix, law)
        for i in range(60):
            lesson = source.lesson(i)
            (missing,) = said(lesson)
            whole = "".join(part.text if isinstance(part, Text) else "" for part in map(_text_of, lesson))
            thought, _, caption = whole.rpartition(END)
            true = parse(caption)
            assert true.mentions and missing in caption
            if thought:
                assert holds(true, _sheet(thought))
            forms.add((bool(thought), isinstance(lesson[-1], Image), missing == caption, law.think > 0))
        encode([source.lesson(i) for i in range(4)], codec(), law)
    assert {form[:3] for form in forms if form[3]} == {
        (True, True, True), (True, True, False), (True, False, False), (False, True, True), (False, True, False),
    }  # fmt: skip
    assert not any(form[0] for form in forms if not form[3]), "no thoughts without a share of them"


def test_regions_are_asked_for_as_a_prompt_asks_and_hold_what_stood_there() -> None:
    every = ("plain", "loose", "words", "holes", "regions", *TASKS)
    mix = TaskShares(**{task: float(task == "regions") for task in every})
    outrights, empties = {0.0: 0, 1.0: 0}, 0
    for share in outrights:
        law = LessonWeights(think=share)
        source = StickerLessons(codec(), 1, mix, law)
        chosen = [source.lesson(i) for i in range(40)]
        for lesson, made in zip(chosen, encode(chosen, codec(), law), strict=True):
            words, answer = lesson
            picture = answer.part
            (prompt,) = codec().encode_prompts([Document((words, picture))])
            asked = prompt.tokens.length
            assert made.tokens.ids[:asked].tolist() == prompt.tokens.ids.tolist(), "what a user's request becomes"
            (whole,) = codec().encode_many([Document.of(words, Image(picture.pixels))])
            back = cm3_unmask(made.tokens, codec().vocab)
            assert back.ids.tolist() == whole.ids.tolist() and back.cells.tolist() == whole.cells.tolist()
            learnt = made.weights > 0
            assert not learnt[:asked].any(), "what is given is not learnt"
            assert learnt.sum() == sum(len(hole.cells) + 1 for hole in prompt.holes), "each row, and what ends it"
            told, pixels = parse(words.text), np.asarray(picture.pixels)
            assert told.mentions
            if all(m.place and m.size for m in told.mentions):
                sheet = _sheet(words.text)
                order = [sheet.stickers.index(sheet.at(m.place)) for m in told.mentions]
                outrights[share] += words.text == outright(sheet, order)
            x0, y0, x1, y1 = picture.gap
            empties += bool((pixels[y0:y1, x0:x1] == pixels[0, 0]).all())
    assert outrights[1.0] == 40 and outrights[0.0] < 30
    assert 2 <= empties <= 30


def _text_of(part: Any) -> Any:
    return part.part if isinstance(part, Answer) else part


def test_a_share_of_structures_is_drawn_without_a_thought() -> None:
    law = LessonWeights(think=1.0, aloud=1.0, direct=0.5)
    for task in STRUCTURES:
        thinks = ["".join(said(one)) != "" for one in lessons(task, law, 24)]
        assert 4 <= sum(thinks) <= 20
    assert all(said(one) for one in lessons("boxes", law, 12)), "boxes are no structure"


def test_maps_have_no_thoughts_and_without_a_share_nothing_has() -> None:
    for lesson in lessons("segment", ALOUD):
        assert ORDER not in "".join(part.text for part in lesson if isinstance(part, Text))
    for task in (*TASKS, *TASKS):
        law = LessonWeights(aloud=1.0) if task in PICTURES else LessonWeights(think=1.0, aloud=1.0, plain=TASKS)
        for lesson in lessons(task, law):
            texts = [part.text for part in lesson if isinstance(part, Text)]
            assert not any(text.endswith(ORDER) for text in texts)


def test_words_are_thought_in_their_order_and_a_name_that_nobody_knows_is_kept() -> None:
    every = ("plain", "loose", "words", *TASKS)
    mix = TaskShares(**{task: float(task == "loose") for task in every})
    source, renamed, orders = StickerLessons(codec(), 1, mix, ALOUD), 0, 0
    for i in range(60):
        asked, answer, end = source.lesson(i)
        assert isinstance(asked, Text) and isinstance(answer, Answer) and end == Text(END)
        assert isinstance(answer.part, Text) and answer.weight == ALOUD.told and asked.text.endswith(f" {ORDER}")
        prompt, thought = asked.text.removesuffix(f" {ORDER}"), answer.part.text
        try:
            meant, full = parse(prompt), parse(thought)
        except DataError:  # of an invented name, which both have
            renamed += 1
            (name,) = set(thought.replace(",", "").split()) - set(outright_words())
            assert name in prompt.split()
            continue
        assert full.ground and all(None not in (m.kind, m.size, m.place) for m in full.mentions)
        assert [m.kind for m in meant.mentions] == [m.kind for m in full.mentions]
        for said, whole in zip(meant.mentions, full.mentions, strict=True):
            assert said.size in (None, whole.size) and said.place in (None, whole.place)
        orders += [PLACES.index(str(m.place)) for m in full.mentions] != sorted(
            PLACES.index(str(m.place)) for m in full.mentions
        )
    assert 4 <= renamed <= 25 and orders > 10


def test_two_kinds_may_have_names_that_nobody_knows() -> None:
    law = LessonWeights(think=1.0, renamed=1.0, both=0.5)
    every = ("plain", "loose", "words", *TASKS)
    source = StickerLessons(codec(), 1, TaskShares(**{task: float(task == "loose") for task in every}), law)
    known, numbers = outright_words(), set()
    for i in range(30):
        (thought,) = said(source.lesson(i))
        numbers.add(len(set(thought.replace(",", "").split()) - known))
    assert numbers == {1, 2}


def outright_words() -> set[str]:
    """All words that a thought of known kinds may have."""
    rng = np.random.default_rng(0)
    return {w for _ in range(3000) for w in outright(random_sheet(rng)).replace(",", "").split()}


def test_a_thought_weighs_and_what_asks_for_it_does_not() -> None:
    for task in ("edit", "canny", "coco_captions"):
        some = lessons(task, ALOUD)
        for lesson, made in zip(some, encode(some, codec(), ALOUD), strict=True):
            prompt = codec().encode_prompt(Document(opened(lesson))).tokens
            assert made.tokens.ids[: prompt.length].tolist() == prompt.ids.tolist()
            assert not made.weights[: prompt.length].any() and made.weights[-1] == ALOUD.told
