"""Lessons: what a user asks, token for token, with the loss on the answers, several of them in one sequence."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import PIL.Image
import pytest
from tiny_model import SIZE, codec

import cm3
from cm3.data.load import Loader
from cm3.document import Document, Gap, Image, Text
from cm3.errors import ConfigError
from cm3.scenes.ask import KINDS as QUESTIONS
from cm3.scenes.data.lesson_documents import TASKS, scene_example
from cm3.scenes.data.lessons import (
    KEPT,
    Answer,
    LessonLaw,
    SceneTaskMix,
    SceneTaskSource,
    changed_cells,
    encode_lessons,
    lesson_of,
    make_lesson,
)
from cm3.scenes.data.scene_source import SceneSource
from cm3.scenes.scene import PLACES
from cm3.scenes.scene_edits import KINDS as EDITS
from cm3.scenes.scene_edits import parse_edit
from cm3.scenes.sentences import parse
from cm3.scenes.verify import read
from cm3.sequence.answers import Weighted
from cm3.sequence.mask import MaskLaw, cm3_unmask
from cm3.sequence.unconditional import HIDDEN, without
from cm3.tasks import Example, encode, find_task
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens

SAID = LessonLaw(unsaid=0.0)


def some(task: str, number: int, law: LessonLaw = SAID) -> list[Any]:
    return [make_lesson(task, np.random.default_rng([7, i]), SIZE, "train", law) for i in range(number)]


def source(mix: SceneTaskMix | None = None, law: LessonLaw | None = None) -> SceneTaskSource:
    return SceneTaskSource(codec(), 1, mix, law, plain=SceneSource(codec(), 2))


@pytest.mark.parametrize("task", TASKS)
def test_a_lesson_of_one_example_is_what_encode_makes(task: str) -> None:
    example = scene_example(task, 1, 0, SIZE)
    laid = find_task(task).template(example.template).lay_out(example.fields, find_task(task).gives)
    (want,) = encode([Example(laid, "d", "s", {})], codec(), weights="answer")
    (made,) = encode_lessons([lesson_of(example)], codec())
    assert made.tokens.ids.tolist() == want.tokens.ids.tolist()
    assert made.tokens.cells.tolist() == want.tokens.cells.tolist()
    assert made.weights.tolist() == want.weights.tolist() and made.weights.dtype == np.float32


@pytest.mark.parametrize("task", TASKS)
def test_a_lesson_begins_as_a_user_asks(task: str) -> None:
    """Also one with more answers: the beginning of some is a whole prompt, up to its hole."""
    example, chosen, v = scene_example(task, 1, 3, SIZE), find_task(task), codec().vocab
    asks = {f: example.fields[f] for f in chosen.template(example.template).fields if f not in chosen.gives}
    prompt = codec().encode_prompt(chosen.prompt(example.template, **asks)).tokens.ids.tolist()
    (made,) = encode_lessons([lesson_of(example)], codec())
    head = prompt[:-2] if chosen.output == "image" else [*prompt, v.mask(0)]
    assert made.tokens.ids[: len(head)].tolist() == head
    assert not made.weights[: len(head)].any() and made.weights[len(head) :].all()


def test_questions_about_one_picture_are_all_masked_and_all_weigh() -> None:
    lessons = some("vqa2", 12)
    numbers = [sum(isinstance(part, Answer) for part in lesson) for lesson in lessons]
    assert min(numbers) == 1 and max(numbers) > 4
    for lesson, made in zip(lessons, encode_lessons(lessons, codec()), strict=True):
        v, answers = codec().vocab, [part.part.text for part in lesson if isinstance(part, Answer)]
        # Filled in, it reads as the template does, a line a question.
        lines = codec().decode(cm3_unmask(made.tokens, v)).text.split("\n")
        assert len(lines) == len(answers)
        for line, answer in zip(lines, answers, strict=True):
            assert line.startswith("Question: ") and line.endswith(f"? Answer: {answer}.")
        ids, weights = made.tokens.ids, made.weights
        closed = int(np.flatnonzero(ids == v.eos)[-1])
        tail = ids[closed + 1 :]
        assert not weights[: closed + 1].any()
        assert ((weights[closed + 1 :] > 0) == ~v.is_mask(tail)).all() and set(weights.tolist()) == {0, SAID.short}


def test_a_dialogue_hides_the_last_answer_and_half_of_those_before() -> None:
    hidden, told = 0, 0
    for lesson in some("visdial", 40):
        *_, last, end, image = lesson
        assert isinstance(last, Answer) and end == Text(".") and isinstance(image, Image)
        hidden += sum(isinstance(part, Answer) for part in lesson) - 1
        told += sum(part.text.count("Answer: ") for part in lesson if isinstance(part, Text))
        (made,) = encode_lessons([lesson], codec())
        whole = codec().decode(cm3_unmask(made.tokens, codec().vocab)).text
        caption, *turns = whole.split("\n")
        assert parse(caption).mentions and all(t.startswith("Question: ") and t.endswith(".") for t in turns)
    told -= sum(1 for lesson in some("visdial", 40) for part in lesson if isinstance(part, Answer))
    assert hidden > 15 and told > 15


def test_edits_follow_each_other_and_what_stays_weighs_less() -> None:
    numbers = []
    for lesson in (make_lesson("edit", np.random.default_rng([3, i]), 128, "train", SAID) for i in range(6)):
        order, first, *rest = lesson
        assert order == Text("Edit first image following the instruction")
        now = read(first.pixels).scene
        numbers.append(len(rest) // 2)
        for instruction, after in zip(rest[::2], rest[1::2], strict=True):
            now = parse_edit(instruction.text, now)
            assert read(after.part.pixels).scene == now
            assert lesson[after.like].part is not None if isinstance(lesson[after.like], Answer) else after.like == 1
    assert max(numbers) > 1
    touched = []
    for lesson in some("edit", 4):
        (made,) = encode_lessons([lesson], codec())
        answer = next(i for i, part in enumerate(lesson) if isinstance(part, Answer))
        before, after = (codec().encode(Document((p,))).ids[1:-1] for p in (lesson[1], lesson[answer].part))
        changed = changed_cells(lesson[1].pixels, lesson[answer].part.pixels, codec().image.grid).ravel()
        at = np.flatnonzero(made.weights)[: len(after)]
        assert made.tokens.ids[at].tolist() == np.where(changed, after, before).tolist()
        assert made.weights[at].tolist() == np.where(changed, 1, KEPT).tolist()
        touched.append(changed.mean())
    assert 0 < np.mean(touched) < 1


def test_cells_are_changed_where_pixels_near_them_are() -> None:
    before = PIL.Image.new("RGB", (128, 128))
    after = before.copy()
    after.putpixel((25, 64), (9, 0, 0))  # column 1, near to column 2; row 4, at the upper end of it
    assert np.argwhere(changed_cells(before, after, (8, 8))).tolist() == [[3, 1], [4, 1]]
    after.putpixel((26, 64), (9, 0, 0))
    assert np.argwhere(changed_cells(before, after, (8, 8))).tolist() == [[3, 1], [3, 2], [4, 1], [4, 2]]
    assert not changed_cells(before, before, (8, 8)).any()


def test_stitched_pictures_read_back_as_what_the_edits_asked_for() -> None:
    """Edits one after the other, as the shipped image tokenizer shows them: cells from up to six pictures."""
    shipped = cm3.load("scenes").codec
    lessons = [make_lesson("edit", np.random.default_rng([5, i]), 128, "train", SAID) for i in range(8)]
    told = right = 0
    for lesson, made in zip(lessons, encode_lessons(lessons, shipped), strict=True):
        pictures = [part for part in shipped.decode(made.tokens).parts if isinstance(part, Image)]
        wanted = [part.part for part in lesson if isinstance(part, Answer)]
        assert len(pictures) == len(wanted) + 1
        for given, want in zip(pictures[1:], wanted, strict=True):
            told, right = told + 1, right + (read(given.pixels).scene == read(want.pixels).scene)
    assert told > 8 and right >= told - 1


@pytest.mark.parametrize("task", ["edit", "canny", "segmentation", "depth", "scribble", "segment"])
def test_what_guidance_guides_away_from_is_trained_on(task: str) -> None:
    """A hidden lesson begins with the very stream that generation makes (cm3/sequence/unconditional.py)."""
    v, kind = codec().vocab, "control" if find_task(task).control else task
    streams = set()
    for said, unsaid in zip(some(task, 6), some(task, 6, LessonLaw(unsaid=1.0)), strict=True):
        first = next(i for i, part in enumerate(said) if isinstance(part, Answer))
        prompt = codec().encode(Document((*said[:first], Gap("image"))))
        (made,) = encode_lessons([unsaid], codec())
        for n, parts in enumerate(HIDDEN[kind]):
            want = without(prompt.slice(0, prompt.length - 2), parts, v).ids.tolist()
            if made.tokens.ids[: len(want)].tolist() == want:
                streams.add(n)
                assert made.tokens.length == len(want) + 17 and made.weights[len(want) :].all()
                assert not made.weights[: len(want)].any()
    assert streams == set(range(len(HIDDEN[kind])))


def test_the_rest_may_weigh_something() -> None:
    lessons = some("vqa2", 1)
    (made,) = encode_lessons(lessons, codec(), rest=0.125)
    assert set(made.weights.tolist()) == {0.125, SAID.short}


def test_the_source_gives_each_task_its_share_and_the_same_again() -> None:
    mix = SceneTaskMix(**dict.fromkeys(TASKS, 0.0) | {"plain": 1.0, "vqa2": 2.0, "segment": 1.0})
    made = source(mix)
    tasks = [made.task(i) for i in range(2000)]
    assert set(tasks) == {"plain", "vqa2", "segment"} and abs(tasks.count("vqa2") - 1000) < 80
    first = made.sequences(range(12))
    for task, one, again in zip(tasks, first, source(mix).sequences(range(12)), strict=False):
        assert isinstance(one, Weighted) == (task != "plain")
        a, b = (x.tokens if isinstance(x, Weighted) else x for x in (one, again))
        assert a.ids.tolist() == b.ids.tolist()
    plain = tasks.index("plain")
    assert made.sequences([plain])[0].ids.tolist() == SceneSource(codec(), 2).sequences([plain])[0].ids.tolist()


def test_shuffled_pictures_are_all_in_one_order() -> None:
    """Whatever cell of one picture is the same in the next still is, and what a code weighs goes with it."""
    mix = SceneTaskMix(**dict.fromkeys(TASKS, 0.0) | {"plain": 0.0, "edit": 1.0, "segment": 1.0, "canny": 1.0})
    kept, moved = (source(mix, LessonLaw(unsaid=0.0, shuffled=s)).sequences(range(30)) for s in (0.0, 1.0))
    seen = set()
    for i, (one, other) in enumerate(zip(kept, moved, strict=True)):
        assert isinstance(one, Weighted) and isinstance(other, Weighted)
        assert one.tokens.cells.tolist() == other.tokens.cells.tolist()
        starts = np.flatnonzero(one.tokens.cells == 1)
        outside = one.tokens.cells == 0
        assert (one.tokens.ids == other.tokens.ids)[outside].all() and (one.weights == other.weights)[outside].all()
        columns = [
            sorted(
                zip(*[(x.tokens.ids[s : s + 16] * 100 + x.weights[s : s + 16]).tolist() for s in starts], strict=True)
            )
            for x in (one, other)
        ]
        assert columns[0] == columns[1], "the same pictures, cell by cell, in another order"
        task = source(mix).task(i)
        seen.add((task, one.tokens.ids.tolist() == other.tokens.ids.tolist()))
    assert ("canny", True) in seen and ("edit", False) in seen and ("segment", False) in seen
    assert ("canny", False) not in seen


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"write", "scienceqa"}))
def test_scenes_have_as_many_objects_as_the_law_says(task: str) -> None:
    for number in (1, 3):
        law = LessonLaw(unsaid=0.0, objects=tuple(float(n == number) for n in (1, 2, 3, 4)))
        for i in range(3):
            lesson = make_lesson(task, np.random.default_rng([9, i]), 128, "train", law)
            name = {"segmentation": -1, "canny": -1, "depth": -1, "scribble": -1, "boxes": -1}.get(task)
            pictures = [p.part if isinstance(p, Answer) else p for p in lesson]
            pictures = [p for p in pictures if isinstance(p, Image)]
            assert len(read(pictures[name or 0].pixels).scene.objects) == number


def test_kinds_of_edits_and_questions_come_as_the_law_says() -> None:
    recolour, places = tuple(float(k == "recolour") for k in EDITS), tuple(float(k == "place") for k in QUESTIONS)
    law = LessonLaw(unsaid=0.0, objects=(0.0, 1.0, 0.0, 0.0), edits=recolour, questions=places)
    for i in range(8):
        lesson = make_lesson("edit", np.random.default_rng([10, i]), 128, "train", law)
        pictures = [p.part if isinstance(p, Answer) else p for p in lesson]
        scenes = [read(p.pixels).scene for p in pictures if isinstance(p, Image)]
        for before, after in itertools.pairwise(scenes):
            changed = [o for o in after.objects if o not in before.objects]
            assert len(changed) == 1 and before.at(changed[0].place).shape == changed[0].shape
        lesson = make_lesson("vqa2", np.random.default_rng([10, i]), 128, "train", law)
        answers = [p.part.text for p in lesson if isinstance(p, Answer)]
        assert answers and set(answers) <= set(PLACES)


def test_a_kind_of_question_that_a_scene_does_not_allow_gives_way() -> None:
    relations = tuple(float(k == "relation") for k in QUESTIONS)
    law = LessonLaw(objects=(1.0, 0.0, 0.0, 0.0), questions=relations)  # of one object there is none
    assert any(isinstance(p, Answer) for p in make_lesson("vqa2", np.random.default_rng(11), 128, "train", law))


def test_every_lesson_goes_through_the_loader() -> None:
    mix = SceneTaskMix(**dict.fromkeys(TASKS, 1.0) | {"plain": 4.0})
    law = MaskLaw(rate=2.0, tail_weight=4.0)
    made = Loader(source(mix), codec().vocab, law, windows=2, length=512, seed=0)
    weights = np.concatenate([b.weights.ravel() for b, _ in itertools.islice(made, 4)])
    assert made.counts.skipped == 0 and {0.0, 0.5, 1.0, 2.0, 4.0, 6.0} == set(weights.tolist())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edit": -1.0}, "mix.edit=-1.0: is a share, must be a number of 0 or more"),
        ({"write": float("nan")}, "mix.write=nan: is a share"),
        (dict.fromkeys((*TASKS, "plain"), 0.0), "mix: the shares sum to nothing; give a task one"),
    ],
)
def test_shares_that_are_none_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SceneTaskMix(**changes)


def test_other_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="law.short=-1: is a loss weight, must be in 0..100"):
        LessonLaw(short=-1)
    with pytest.raises(ConfigError, match=r"law.shuffled=-0.1: is a share, must be in 0\.\.1"):
        LessonLaw(shuffled=-0.1)
    with pytest.raises(ConfigError, match="law.unsaid=2: is a share, must be in 0..1"):
        LessonLaw(unsaid=2)
    for shares in ((1.0, 1.0), (0.0,) * 4, (1.0, 1.0, 1.0, -1.0), (1.0, 1.0, 1.0, float("nan"))):
        with pytest.raises(ConfigError, match=r"law.objects=.*: must be 4 shares of 0 or more that do not sum to noth"):
            LessonLaw(objects=shares)
    for name, count in (("edits", len(EDITS)), ("questions", len(QUESTIONS))):
        with pytest.raises(ConfigError, match=rf"law.{name}=\(1.0,\): must be {count} shares of 0 or more that do not"):
            LessonLaw(**{name: (1.0,)})
    with pytest.raises(ConfigError, match=r"mix.plain=19.0: there are no plain documents; give some, or a share of 0"):
        SceneTaskSource(codec(), 1)
    text = Codec(codec().vocab, codec().text)
    with pytest.raises(ConfigError, match="scene tasks have pictures; give it an image tokenizer"):
        SceneTaskSource(text, 1, plain=SceneSource(codec(), 1))


def test_the_names_of_the_shares_are_the_tasks() -> None:
    assert set(SceneTaskMix().shares) == {*TASKS, "plain"}
    assert sum(SceneTaskMix().shares.values()) == pytest.approx(1)
    assert isinstance(source().sequences([0])[0], Tokens)
