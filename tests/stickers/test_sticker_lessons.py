"""Lessons: what a user asks, token for token, with the loss on the answers, several of them in one sequence."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from lesson_codec import codec

from cm3.data.load import Loader, Source
from cm3.document import Document, Gap, Image, Text
from cm3.errors import ConfigError
from cm3.sequence.answers import Weighted
from cm3.sequence.mask import MaskLaw, cm3_unmask
from cm3.sequence.unconditional import HIDDEN, without
from cm3.stickers.ask import QUESTIONS
from cm3.stickers.data.sticker_examples import TASKS, sticker_example
from cm3.stickers.data.sticker_lessons import (
    Answer,
    LessonWeights,
    StickerLessons,
    encode_lessons,
    lesson_of,
    make_lesson,
)
from cm3.stickers.data.task_shares import TaskShares
from cm3.stickers.data.word_source import WordSource
from cm3.stickers.drawing import BLOCK, CORNER, draw
from cm3.stickers.sentences import holds, parse
from cm3.stickers.sticker_edits import EDITS, random_edit
from cm3.stickers.verify import read
from cm3.stickers.world import PLACES, QUARTERS, random_sheet
from cm3.tasks import Example, encode, find_task
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens

SAID = LessonWeights(unsaid=0.0)
CODES = 256


class Sheets(Source):
    """Pictures without words, as plain documents."""

    def sequences(self, positions: Any) -> list[Tokens]:
        """Sheet by number."""
        sheets = [random_sheet(np.random.default_rng([9, i])) for i in positions]
        return codec().encode_many([Document((Image(draw(sheet)),)) for sheet in sheets])


def some(task: str, number: int, law: LessonWeights = SAID) -> list[Any]:
    return [make_lesson(task, np.random.default_rng([7, i]), 256, "train", law) for i in range(number)]


def source(mix: TaskShares | None = None, law: LessonWeights | None = None) -> StickerLessons:
    return StickerLessons(codec(), 1, mix, law, plain=Sheets())


def only(**shares: float) -> TaskShares:
    return TaskShares(**dict.fromkeys((*TASKS, "plain"), 0.0) | shares)


def shown(lesson: Any) -> list[np.ndarray]:
    """The pictures of a lesson."""
    parts = [part.part if isinstance(part, Answer) else part for part in lesson]
    return [np.asarray(part.pixels) for part in parts if isinstance(part, Image)]


@pytest.mark.parametrize("task", TASKS)
def test_a_lesson_of_one_example_is_what_encode_makes(task: str) -> None:
    example = sticker_example(task, 1, 0)
    laid = find_task(task).template(example.template).lay_out(example.fields, find_task(task).gives)
    (want,) = encode([Example(laid, "d", "s", {})], codec(), weights="answer")
    (made,) = encode_lessons([lesson_of(example)], codec(), SAID)
    assert made.tokens.ids.tolist() == want.tokens.ids.tolist()
    assert made.tokens.cells.tolist() == want.tokens.cells.tolist()
    assert made.weights.tolist() == want.weights.tolist() and made.weights.dtype == np.float32


@pytest.mark.parametrize("task", TASKS)
def test_a_lesson_begins_as_a_user_asks(task: str) -> None:
    """Up to its first answer, a lesson is a whole prompt, also one with more answers."""
    example, chosen, v = sticker_example(task, 1, 3), find_task(task), codec().vocab
    asks = {f: example.fields[f] for f in chosen.template(example.template).fields if f not in chosen.gives}
    prompt = codec().encode_prompt(chosen.prompt(example.template, **asks)).tokens.ids.tolist()
    (made,) = encode_lessons([lesson_of(example)], codec(), SAID)
    head = prompt[:-2] if chosen.output == "image" else [*prompt, v.mask(0)]
    assert made.tokens.ids[: len(head)].tolist() == head
    assert not made.weights[: len(head)].any() and made.weights[len(head) :].all()


def test_questions_about_one_picture_are_all_masked_and_all_weigh() -> None:
    lessons = some("vqa2", 12)
    numbers = [sum(isinstance(part, Answer) for part in lesson) for lesson in lessons]
    assert min(numbers) == 1 and max(numbers) > 4
    for lesson, made in zip(lessons, encode_lessons(lessons, codec(), SAID), strict=True):
        v, answers = codec().vocab, [part.part.text for part in lesson if isinstance(part, Answer)]
        # filled in, it reads as the template does, a line a question
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
    hidden, told, lessons = 0, 0, some("visdial", 40)
    for lesson, made in zip(lessons, encode_lessons(lessons, codec(), SAID), strict=True):
        *_, last, end, image = lesson
        assert isinstance(last, Answer) and end == Text(".") and isinstance(image, Image)
        hidden += sum(isinstance(part, Answer) for part in lesson) - 1
        whole = codec().decode(cm3_unmask(made.tokens, codec().vocab)).text
        caption, *turns = whole.split("\n")
        assert parse(caption).mentions and all(t.startswith("Question: ") and t.endswith(".") for t in turns)
        told += len(turns) - sum(isinstance(part, Answer) for part in lesson)
    assert hidden > 10 and told > 10


def test_an_edit_changes_the_codes_of_its_own_cells_alone() -> None:
    """Codes are strictly local: a picture that is encoded anew after an edit has the old codes everywhere else."""
    rng = np.random.default_rng(0)
    for kind in EDITS:
        edit = random_edit(rng, "train", kind, None, 2)
        before, after = (codec().encode(Document((Image(draw(s)),))).ids[1:-1] for s in (edit.before, edit.after))
        assert len(before) == len(after) == CODES and (before != after).any()
        kept = np.ones((16, 16), bool)
        for a, b in ((edit.before, edit.after), (edit.after, edit.before)):
            for s in a.stickers:
                left, top = (v // 16 for v in CORNER[s.place])
                kept[top : top + BLOCK // 16, left : left + BLOCK // 16] &= s in b.stickers
        if kind == "ground":
            kept[:] = False
        assert (before == after)[kept.ravel()].all()


def test_edits_follow_each_other_and_a_code_that_stays_weighs_less() -> None:
    law = LessonWeights(unsaid=0.0, most_edits=3, kept=0.25)
    lessons = some("edit", 8, law)
    numbers = []
    for lesson, made in zip(lessons, encode_lessons(lessons, codec(), law), strict=True):
        order, first, *rest = lesson
        assert order == Text("Edit first image following the instruction") and isinstance(first, Image)
        numbers.append(len(rest) // 2)
        starts = np.flatnonzero(made.tokens.cells == 1)
        assert len(starts) == numbers[-1] + 1
        pictures = [made.tokens.ids[s : s + CODES] for s in starts]
        weights = [made.weights[s : s + CODES] for s in starts]
        assert not weights[0].any()
        for i, (instruction, answer) in enumerate(zip(rest[::2], rest[1::2], strict=True)):
            assert isinstance(instruction, Text) and isinstance(answer, Answer)
            alone = codec().encode(Document((answer.part,))).ids[1:-1]
            assert pictures[i + 1].tolist() == alone.tolist()
            same = pictures[i] == pictures[i + 1]
            assert weights[i + 1].tolist() == np.where(same, 0.25, 1).tolist()
            assert 0 < same.mean() < 1 or "ground" in instruction.text
            assert made.weights[starts[i + 1] + CODES] == 1, "and the border that ends it"
    assert set(numbers) == {1, 2, 3}


@pytest.mark.parametrize("task", ["edit", "canny", "segmentation", "depth", "scribble", "segment"])
def test_what_guidance_guides_away_from_is_trained_on(task: str) -> None:
    """A hidden lesson begins with the very stream that generation makes (cm3/sequence/unconditional.py)."""
    v, kind = codec().vocab, "control" if find_task(task).control else task
    streams = set()
    for said, unsaid in zip(some(task, 6), some(task, 6, LessonWeights(unsaid=1.0)), strict=True):
        first = next(i for i, part in enumerate(said) if isinstance(part, Answer))
        prompt = codec().encode(Document((*said[:first], Gap("image"))))
        (made,) = encode_lessons([unsaid], codec(), SAID)
        for n, parts in enumerate(HIDDEN[kind]):
            want = without(prompt.slice(0, prompt.length - 2), parts, v).ids.tolist()
            if made.tokens.ids[: len(want)].tolist() == want:
                streams.add(n)
                assert made.tokens.length == len(want) + CODES + 1 and made.weights[len(want) :].all()
                assert not made.weights[: len(want)].any()
    assert streams == set(range(len(HIDDEN[kind])))


def test_codes_that_are_to_be_given_may_be_hidden_and_others_never_are() -> None:
    mix = only(edit=1.0, canny=1.0, vqa2=1.0)
    kept, hidden = (source(mix, LessonWeights(unsaid=0.0, hide=h)).sequences(range(24)) for h in (0.0, 1.0))
    v, seen = codec().vocab, set()
    for i, (one, other) in enumerate(zip(kept, hidden, strict=True)):
        assert isinstance(one, Weighted) and isinstance(other, Weighted)
        assert one.shown is None and one.tokens.ids.tolist() == other.tokens.ids.tolist()
        seen.add(find_task(source(mix).task(i)).output)
        if find_task(source(mix).task(i)).output == "text":
            assert other.shown is None
        else:
            assert other.shown is not None
            at = other.shown != other.tokens.ids
            assert (other.shown[at] == v.unk).all() and (other.weights[at] > 0).all()
    assert seen == {"text", "image"}


def test_little_of_the_ground_may_be_in_a_lesson() -> None:
    mix = only(edit=1.0, vqa2=1.0)
    whole, thinned = (source(mix, LessonWeights(thin=t)).sequences(range(12)) for t in (0.0, 1.0))
    for one, other in zip(whole, thinned, strict=True):
        assert isinstance(one, Weighted) and isinstance(other, Weighted) and one.kept is None
        assert other.tokens.ids.tolist() == one.tokens.ids.tolist(), "the same lesson"
        assert other.kept is not None and other.length < one.length
        left_out = np.flatnonzero(~other.kept)
        assert (one.tokens.ids[left_out] == one.tokens.ids[left_out - 1]).all()
        assert (one.tokens.cells[left_out] > 0).all()


def test_the_rest_may_weigh_something() -> None:
    law = LessonWeights(unsaid=0.0, rest=0.125)
    (made,) = encode_lessons(some("vqa2", 1, law), codec(), law)
    assert set(made.weights.tolist()) == {0.125, law.short}


def test_answers_weigh_as_the_law_says() -> None:
    law = LessonWeights(unsaid=0.0, short=7.0, told=5.0, long=3.0)
    for task, weight in (("vqa2", 7), ("visdial", 7), ("coco_captions", 5), ("scienceqa", 5), ("image_paragraph", 3)):
        (made,) = encode_lessons(some(task, 1, law), codec(), law)
        assert set(made.weights.tolist()) == {0, weight}


@pytest.mark.parametrize("think", [0.0, 1.0])
def test_the_letter_of_an_explanation_has_a_weight_of_its_own(think: float) -> None:
    law = LessonWeights(unsaid=0.0, told=4.0, letter=16.0, think=think)
    for lesson in some("scienceqa", 4, law):
        (made,) = encode_lessons([lesson], codec(), law)
        (answer,) = (part for part in lesson if isinstance(part, Answer))
        assert isinstance(answer.part, Text)
        letter = answer.part.text.rpartition(" ")[2]
        ids = [int(i) for i in made.tokens.ids[made.weights == 16.0]]
        assert (
            codec().text.decode([i - codec().vocab.text_start for i in ids]).strip() == letter
            and letter in "(A) (B) (C)"
        )
        assert set(made.weights.tolist()) == {0.0, 4.0, 16.0} and made.weights[-1] == 4.0


@pytest.mark.parametrize("task", ["vqa2", "visdial", "coco_captions", "image_paragraph", "scienceqa"])
def test_a_share_of_answers_in_words_is_read_off_copies(task: str) -> None:
    """What is asked and answered is the same, and of its picture a copy: near, and of other pixels."""
    law = LessonWeights(unsaid=0.0, copies=1.0)
    plain, copies = some(task, 6), some(task, 6, law)
    for lesson, other in zip(plain, copies, strict=True):
        words = [[p.part if isinstance(p, Answer) else p for p in one] for one in (lesson, other)]
        assert [p for p in words[0] if isinstance(p, Text)] == [p for p in words[1] if isinstance(p, Text)]
        (true,), (copy,) = shown(lesson), shown(other)
        off = np.abs(true.astype(int) - copy)
        assert true.shape == copy.shape and 0 < off.mean() < 8
    half = some(task, 40, LessonWeights(unsaid=0.0, copies=0.5))
    differ = [(shown(a)[0] != shown(b)[0]).any() for a, b in zip(some(task, 40), half, strict=True)]
    assert 8 < sum(differ) < 32


def test_pictures_that_are_drawn_are_no_copies() -> None:
    for task in ("edit", "boxes", "canny", "segment"):
        for lesson, other in zip(some(task, 3), some(task, 3, LessonWeights(unsaid=0.0, copies=1.0)), strict=True):
            assert all((a == b).all() for a, b in zip(shown(lesson), shown(other), strict=True))


def test_the_source_gives_each_task_its_share_and_the_same_again() -> None:
    mix = only(plain=1.0, vqa2=2.0, segment=1.0)
    made = source(mix)
    tasks = [made.task(i) for i in range(2000)]
    assert set(tasks) == {"plain", "vqa2", "segment"} and abs(tasks.count("vqa2") - 1000) < 80
    first = made.sequences(range(12))
    for task, one, again in zip(tasks, first, source(mix).sequences(range(12)), strict=False):
        assert isinstance(one, Weighted) == (task != "plain")
        a, b = (x.tokens if isinstance(x, Weighted) else x for x in (one, again))
        assert a.ids.tolist() == b.ids.tolist()
    plain = tasks.index("plain")
    assert made.sequences([plain])[0].ids.tolist() == Sheets().sequences([plain])[0].ids.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"scienceqa"}))
def test_sheets_have_as_many_stickers_as_the_law_says(task: str) -> None:
    """Counted by the quarters in which a picture, or a map, shows anything but its ground."""
    for number in (1, 3):
        law = LessonWeights(unsaid=0.0, stickers=tuple(float(n == number) for n in (1, 2, 3, 4)))
        for i in range(3):
            first = shown(make_lesson(task, np.random.default_rng([9, i]), 256, "train", law))[0]
            quarters = [first[y : y + BLOCK, x : x + BLOCK] for x, y in (CORNER[place] for place in QUARTERS)]
            taken = sum(bool((part != first[0, 0]).any()) for part in quarters)
            assert taken == number or (number == 1 and taken == 4), "one in the middle lies in all four"


def test_kinds_of_edits_and_questions_come_as_the_law_says() -> None:
    ground = tuple(float(k == "ground") for k in EDITS)
    place = tuple(float(k == "place") for k in QUESTIONS)
    law = LessonWeights(unsaid=0.0, stickers=(0.0, 1.0, 0.0, 0.0), edits=ground, questions=place)
    asked = 0
    for i in range(8):
        lesson = make_lesson("edit", np.random.default_rng([10, i]), 256, "train", law)
        for before, after in itertools.pairwise(shown(lesson)):
            assert (before[0, 0] != after[0, 0]).any(), "a corner is of the ground"
        lesson = make_lesson("vqa2", np.random.default_rng([10, i]), 256, "train", law)
        answers = [p.part.text for p in lesson if isinstance(p, Answer)]
        asked += set(answers) <= set(PLACES)
    assert asked >= 6, "of twins nobody is asked where they are"


def test_a_kind_of_question_that_a_sheet_does_not_allow_gives_way() -> None:
    relations = tuple(float(k == "relation") for k in QUESTIONS)
    law = LessonWeights(stickers=(1.0, 0.0, 0.0, 0.0), questions=relations)  # of one sticker there is none
    assert any(isinstance(p, Answer) for p in make_lesson("vqa2", np.random.default_rng(11), 256, "train", law))


def test_every_lesson_goes_through_the_loader() -> None:
    mix = TaskShares(**dict.fromkeys(TASKS, 1.0) | {"plain": 4.0})
    law = LessonWeights(hide=0.5, thin=0.5)
    made = Loader(source(mix, law), codec().vocab, MaskLaw(rate=2.0, tail_weight=4.5), windows=4, length=1024, seed=0)
    weights = np.concatenate([b.weights.ravel() for b, _ in itertools.islice(made, 6)])
    want = np.float32([0.0, law.kept, 1.0, law.long, law.told, 4.5, law.short])
    assert made.counts.skipped == 0 and set(want.tolist()) == set(weights.tolist())


def test_sheets_in_words_and_plain_documents_keep_their_places_among_lessons() -> None:
    words = WordSource(codec(), 3)
    mix = only(words=1.0, plain=1.0, vqa2=1.0)
    lessons = StickerLessons(codec(), 1, mix, plain=Sheets(), words=words)
    made = lessons.sequences(range(30))
    assert {lessons.task(i) for i in range(30)} == {"words", "plain", "vqa2"}
    for i, one in enumerate(made):
        if lessons.task(i) == "words":
            (same,) = words.sequences([i])
            tokens = same.tokens if isinstance(same, Weighted) else same
            assert (one.tokens if isinstance(one, Weighted) else one).ids.tolist() == tokens.ids.tolist()
        else:
            assert isinstance(one, Weighted) == (lessons.task(i) == "vqa2")


def test_words_that_leave_something_open_teach_their_picture_alone() -> None:
    lessons, places = source(only(loose=1.0), LessonWeights(thin=0.0)), list[str]()
    assert {lessons.task(i) for i in range(20)} == {"loose"}
    for index in range(48):
        words, answer = lessons.lesson(index)
        assert isinstance(words, Text) and isinstance(answer, Answer) and isinstance(answer.part, Image)
        sheet = read(answer.part.pixels).sheet
        assert sheet is not None and holds(parse(words.text), sheet)
        document = codec().encode(Document((words, answer.part)))
        (made,) = lessons.sequences([index])
        assert made.tokens.ids.tolist() == document.ids.tolist()  # as plain documents have it, and never masked
        places += [s.place for s in sheet.stickers if len(sheet.stickers) == 1]
        told = codec().vocab.is_image(document.ids)
        assert (made.weights[told] == 1).all() and (made.weights[: told.argmax() - 1] == 0).all()
    assert "middle" in places and set(places) != {"middle"} and places.count("middle") > len(places) / 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edit": -1.0}, "mix.edit=-1.0: is a share, must be a number of 0 or more"),
        ({"boxes": float("nan")}, "mix.boxes=nan: is a share"),
        (dict.fromkeys((*TASKS, "plain"), 0.0), "mix: the shares sum to nothing; give a task one"),
    ],
)
def test_shares_that_are_none_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TaskShares(**changes)


def test_other_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="law.short=-1: is a loss weight, must be in 0..100"):
        LessonWeights(short=-1)
    with pytest.raises(ConfigError, match="law.kept=nan: is a loss weight"):
        LessonWeights(kept=float("nan"))
    with pytest.raises(ConfigError, match=r"law.unsaid=2: is a share, must be in 0\.\.1"):
        LessonWeights(unsaid=2)
    with pytest.raises(ConfigError, match=r"law.hide=-0.1: is a share, must be in 0\.\.1"):
        LessonWeights(hide=-0.1)
    with pytest.raises(ConfigError, match=r"law.thin=2: is a share, must be in 0\.\.1"):
        LessonWeights(thin=2)
    with pytest.raises(ConfigError, match=r"law.plain=\('loose',\): 'loose' is no task of edit, boxes"):
        LessonWeights(plain=("loose",))
    with pytest.raises(ConfigError, match=r"law.letter=101: is a loss weight, must be in 0\.\.100"):
        LessonWeights(letter=101)
    for name in ("think", "aloud", "renamed", "both", "copies"):
        with pytest.raises(ConfigError, match=rf"law.{name}=1.5: is a share, must be in 0\.\.1"):
            LessonWeights(**{name: 1.5})
    for name in ("most_questions", "most_thoughts", "most_edits"):
        with pytest.raises(ConfigError, match=f"law.{name}=0: must be 1 to 16"):
            LessonWeights(**{name: 0})
    for shares in ((1.0, 1.0), (0.0,) * 4, (1.0, 1.0, 1.0, -1.0), (1.0, 1.0, 1.0, float("nan"))):
        with pytest.raises(ConfigError, match=r"law.stickers=.*: must be 4 shares of 0 or more that do not sum to not"):
            LessonWeights(stickers=shares)
    for name, count in (("edits", len(EDITS)), ("questions", len(QUESTIONS))):
        with pytest.raises(ConfigError, match=rf"law.{name}=\(1.0,\): must be {count} shares of 0 or more that do not"):
            LessonWeights(**{name: (1.0,)})
    with pytest.raises(ConfigError, match=r"mix.plain=20.0: there are no plain documents; give some, or a share of 0"):
        StickerLessons(codec(), 1)
    with pytest.raises(ConfigError, match=r"mix.words=1.0: there are no sheets in words; give some, or a share of 0"):
        source(only(words=1.0))
    text = Codec(codec().vocab, codec().text)
    with pytest.raises(ConfigError, match="sticker tasks have pictures; give it an image tokenizer"):
        StickerLessons(text, 1, plain=Sheets())


def test_the_names_of_the_shares_are_the_tasks() -> None:
    assert set(TaskShares().shares) == {*TASKS, "plain", "loose", "words", "holes", "regions"}
    assert sum(TaskShares().shares.values()) == pytest.approx(1)
    assert isinstance(source().sequences([0])[0], Tokens | Weighted)
