"""Instruction tasks as training sequences: several answers from one picture, and a loss weight for every token.

    </s> Question: q1 Answer:<mask:0>. Question: q2 Answer:<mask:1>. <break> codes </s> <mask:0> a1 <eoss> <mask:1> ..
    </s> Edit first ... <break> codes <break> instruction <break> CODES <break> instruction <break> CODES </s>

A lesson is a document in which some parts are answers. Its loss is on those; an answer in words is moved to the end, as
`cm3.tasks.encode` does, and a picture stays where it is written. Up to its first answer, a lesson is what
`Task.prompt` makes of the same fields, token for token. More of them in one sequence, about one picture or each edit
after the one before, is what the same computation teaches more with: a question costs 20 tokens, its picture 256.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cm3.data.load import Source
from cm3.document import Document, Gap, Image, Part, Text
from cm3.errors import ConfigError
from cm3.picture import copy_of
from cm3.sequence.answers import Weighted, weighted_tail
from cm3.sequence.holes import groups, space_before
from cm3.sequence.mask import MaskLaw, hide, thin
from cm3.sequence.segments import image_tokens, runs, text_tokens
from cm3.sequence.unconditional import HIDDEN
from cm3.stickers.ask import QUESTIONS, Question, random_question
from cm3.stickers.data.sticker_examples import (
    TASKS,
    TEMPLATES,
    Fields,
    StickerExample,
    dialogue_fields,
    example_rng,
    make_example,
    picture,
)
from cm3.stickers.data.task_shares import TaskShares
from cm3.stickers.drawing import random_box
from cm3.stickers.own_words import edit_in_own_words, question_in_own_words
from cm3.stickers.pieces import hide_piece
from cm3.stickers.sentences import brief, describe, loosely, outright
from cm3.stickers.shown import NAMES, name_of
from cm3.stickers.sticker_boxes import boxes_of
from cm3.stickers.sticker_edits import EDITS, Edit, kept_order, random_edit
from cm3.stickers.talk import random_dialogue
from cm3.stickers.wishes import random_wish
from cm3.stickers.world import PLACES, QUARTERS, SIZES, Sheet, Split, by_share, pick, random_sheet
from cm3.tasks.examples import find_task
from cm3.tasks.thought import END, answered_from, before_answer, before_change, before_picture, drawn_from
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens

ONE = 0.3
"""Share of lessons about questions or edits that have just one, as a user asks."""
WHOLE = 0.3
"""Share of captions with holes of which all is missing."""
FULL = 0.8
"""Share of regions in which a sticker stands for sure."""


_SHARES = ("unsaid", "hide", "think", "aloud", "read", "direct", "renamed", "both", "thin", "copies", "wishes", "own")


class Answer(NamedTuple):
    """A part that the model is to give. `like`: index of the part, a picture, that this one repeats where it can.
    `end`: the loss weight of its last word, where it has another."""

    part: Text | Image
    weight: float = 1.0
    like: int | None = None
    end: float | None = None


Lesson = tuple[Part | Answer, ...]


@dataclass(frozen=True)
class LessonWeights:
    """The weights of lessons, and what they are about. Raises `ConfigError` for a value out of range."""

    rest: float = 0.0
    """Loss weight of what is no answer: words and pictures of the prompt."""
    kept: float = 0.3
    """Loss weight of a code that is as it was before an edit: most of an edit is copying."""
    short: float = 12.0
    """Loss weight of answers of a few words: a picture is 256 targets, an answer 3."""
    told: float = 4.0
    """Loss weight of captions and explanations."""
    long: float = 2.0
    """Loss weight of descriptions in several sentences."""
    letter: float = 0.0
    """Loss weight of the letter that an explanation ends with; 0 is that of the explanation. It is the answer, one
    token of sixty."""
    copies: float = 0.0
    """Of lessons with answers in words, the share whose picture is a copy (`cm3.picture.copy_of`): what a user gives
    is seldom as it was drawn."""
    unsaid: float = 0.1
    """Share of pictures made from another one whose prompt has its words, or these and the picture, as masks: what
    guidance guides away from (cm3/sequence/unconditional.py)."""
    hide: float = 0.0
    """Share of lessons that give a picture in which codes of the last one are hidden from the model that is to
    foretell them (`cm3.sequence.mask.hide`)."""
    think: float = 0.0
    """Share of lessons that say a thought, or are answered from one (cm3/tasks/thought.py)."""
    aloud: float = 0.5
    """Of these of pictures, the share that say the thought, and draw nothing."""
    read: float = 0.0
    """Of answers in words from a thought, the share that have it in their picture's place: what follows from words is
    soonest learnt from them. Over 0, captions are answered from thoughts too."""
    plain: tuple[str, ...] = ("segment",)
    """Tasks without thoughts, for what is easier drawn than said."""
    direct: float = 0.0
    """Share of pictures after a structure that are drawn without a thought, where others have one."""
    shown: bool = False
    """The thought of an edit follows from what is said of its picture, as a model thinks, and not from the picture."""
    kept_order: bool = False
    """The thought of an edit has its stickers in the order of what is said of its picture, what comes in the place of
    what goes: the words are then copied, but for the change."""
    renamed: float = 0.2
    """Share of thoughts of words in which a kind has an invented name, as what only a document shows."""
    both: float = 0.0
    """Of these, the share in which two kinds have one."""
    wishes: float = 0.0
    """Share of words that leave something open that are wishes, in many wordings (cm3/stickers/wishes.py)."""
    own: float = 0.0
    """Share of edits and questions in more wordings (cm3/stickers/own_words.py)."""
    thin: float = 0.0
    """Share of the codes between two of their own kind that are left out (`cm3.sequence.mask.thin`): a window holds
    more lessons where little of the ground is in it."""
    most_questions: int = 12
    """Most questions about one picture."""
    most_thoughts: int = 4
    """Most edits of one picture whose thoughts are said one after the other."""
    most_edits: int = 2
    """Most edits one after the other; each adds a picture to the sequence."""
    stickers: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    """Shares of sheets with 1, 2, 3, 4 stickers."""
    edits: tuple[float, ...] = (1.0,) * len(EDITS)
    """Shares of the kinds of edit, in the order of `cm3.stickers.sticker_edits.EDITS`."""
    questions: tuple[float, ...] = (1.0,) * len(QUESTIONS)
    """Shares of the kinds of question, in the order of `cm3.stickers.ask.QUESTIONS`."""

    def __post_init__(self) -> None:
        for name in ("rest", "kept", "short", "told", "long", "letter"):
            if not 0 <= getattr(self, name) <= 100:
                raise ConfigError(f"law.{name}={getattr(self, name)}: is a loss weight, must be in 0..100")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"law.{name}={getattr(self, name)}: is a share, must be in 0..1")
        if others := [task for task in self.plain if task not in TASKS]:
            raise ConfigError(f"law.plain={self.plain}: {others[0]!r} is no task of {', '.join(TASKS)}")
        for name in ("most_questions", "most_thoughts", "most_edits"):
            if not 1 <= getattr(self, name) <= 16:
                raise ConfigError(f"law.{name}={getattr(self, name)}: must be 1 to 16, as there are masks")
        for name, of in (("stickers", QUARTERS), ("edits", EDITS), ("questions", QUESTIONS)):
            shares = getattr(self, name)
            if len(shares) != len(of) or not min(shares) >= 0 or not 0 < sum(shares) < np.inf:
                raise ConfigError(
                    f"law.{name}={shares}: must be {len(of)} shares of 0 or more that do not sum to nothing"
                )

    def number(self, rng: np.random.Generator) -> int:
        """Return how many stickers a sheet is to have."""
        return by_share(rng, self.stickers) + 1


class StickerLessons(Source):
    """`Source` (cm3/data/load.py) of lessons, and of the documents of `plain` among them, which are masked as ever."""

    def __init__(
        self,
        codec: Codec,
        seed: int,
        mix: TaskShares | None = None,
        law: LessonWeights | None = None,
        *,
        plain: Source | None = None,
        words: Source | None = None,
        split: Split = "train",
    ) -> None:
        """Raise `ConfigError` for a codec without pictures, and for a share of `plain` or `words` without any given."""
        if codec.image is None:
            raise ConfigError("codec: sticker tasks have pictures; give it an image tokenizer")
        self.codec, self.seed, self.split, self.plain, self.words = codec, seed, split, plain, words
        self.mix, self.law = mix or TaskShares(), law or LessonWeights()
        if self.mix.plain > 0 and plain is None:
            raise ConfigError(f"mix.plain={self.mix.plain}: there are no plain documents; give some, or a share of 0")
        if self.mix.words > 0 and words is None:
            raise ConfigError(f"mix.words={self.mix.words}: there are no sheets in words; give some, or a share of 0")
        self._names, self._bounds = list(self.mix.shares), np.cumsum(list(self.mix.shares.values()))[:-1]

    def task(self, index: int) -> str:
        """Return the task of sequence `index`, or "plain", "loose", "words", "holes" or "regions"."""
        rng = np.random.default_rng([self.seed, 0x717, index])
        return self._names[int(np.searchsorted(self._bounds, rng.random(), side="right"))]

    def lesson(self, index: int) -> Lesson:
        """Return the lesson of sequence `index`, which is neither plain nor in words."""
        task = self.task(index)
        assert self.codec.image is not None  # checked
        size = self.codec.image.size
        if task == "loose":
            return _loose(np.random.default_rng([self.seed, 0x1005E, index]), size, self.split, self.law)
        if task == "holes":
            return _holes(np.random.default_rng([self.seed, 0x401E5, index]), size, self.split, self.law)
        if task == "regions":
            return _region(np.random.default_rng([self.seed, 0x4E610, index]), size, self.split, self.law)
        return make_lesson(task, example_rng(task, self.seed, index), size, self.split, self.law)

    def sequences(self, positions: Sequence[int]) -> list[Tokens | Weighted]:
        """Return these sequences: lessons with their weights, plain documents to be masked, and sheets in words."""
        given: dict[int, Tokens | Weighted] = {}
        for name, source in (("plain", self.plain), ("words", self.words)):
            some = [i for i in positions if self.task(i) == name]
            if some and source is not None:
                given |= zip(some, source.sequences(some), strict=True)
        taught = [i for i in positions if i not in given]
        made = encode_lessons([self.lesson(i) for i in taught], self.codec, self.law)
        law, v = MaskLaw(hide=self.law.hide, thin=self.law.thin), self.codec.vocab
        draws = [np.random.default_rng([self.seed, 0x41DE, i]) for i in taught]
        lessons = (
            one._replace(shown=hide(one.tokens, v, law, rng), kept=thin(one.tokens, v, law, rng))
            for one, rng in zip(made, draws, strict=True)
        )
        return [given[i] if i in given else next(lessons) for i in positions]

    def make(self) -> None:
        """Make what the plain documents need."""
        if self.plain is not None:
            self.plain.make()


def make_lesson(task: str, rng: np.random.Generator, size: int, split: Split, law: LessonWeights) -> Lesson:
    """Return a lesson of a task: one of its examples, or several that belong together."""
    drawn = law.think > 0 and rng.random() < law.think  # a law without thoughts makes what it made before there were
    aloud = drawn and rng.random() < law.aloud
    thinks = drawn and task not in law.plain
    if thinks and law.direct and find_task(task).control:
        thinks = rng.random() >= law.direct
    if task == "vqa2":
        lesson = _questions(rng, size, split, law, thinks)
    elif task == "visdial":
        lesson = _dialogue(rng, size, split, law, thinks)
    elif task == "edit":
        lesson = _edit_thoughts(rng, size, split, law) if thinks and aloud else _edits(rng, size, split, law, thinks)
    else:
        weight = {"scienceqa": law.told, "coco_captions": law.told, "image_paragraph": law.long}.get(task, 1.0)
        example = make_example(task, rng, size, split, law.number(rng))
        lesson = _thought(example, law, weight, aloud) if thinks else lesson_of(example, weight)
        if task == "scienceqa" and law.letter:
            lesson = tuple(p._replace(end=law.letter) if isinstance(p, Answer) else p for p in lesson)
    if find_task(task).output == "text":
        lesson = _copied(lesson, rng, law)
    if thinks and not (task == "coco_captions" and aloud) and find_task(task).output == "text":
        lesson = _read(lesson, rng, law)
    hidden = HIDDEN.get("control" if find_task(task).control else task)
    if hidden and not drawn and rng.random() < law.unsaid:
        return _hidden(lesson, hidden[int(rng.integers(len(hidden)))])
    return lesson


def lesson_of(example: StickerExample, weight: float = 1.0) -> Lesson:
    """Return a lesson of one example, its answer weighing `weight`."""
    task = find_task(example.task)
    laid = task.template(example.template).lay_out(example.fields, task.gives)
    return (*laid.before, Answer(laid.answer, weight), *laid.after)


def _thought(example: StickerExample, law: LessonWeights, weight: float, aloud: bool) -> Lesson:
    """Return a lesson of one example with its thought, said or answered from."""
    task, sheet, order = find_task(example.task), example.truth.sheet, None
    if example.task == "boxes" and aloud:
        order = [boxes_of(sheet).index(box) for box in example.truth.said]
    thought = outright(sheet, order)
    laid = task.template(example.template).lay_out(example.fields, task.gives)
    if task.output == "image":
        if aloud:
            return _filled(before_picture(laid.open), Text(thought), law.told)
        return _filled(drawn_from(laid.open, thought), laid.answer, weight)
    if example.task == "coco_captions" and (aloud or not law.read):
        return _filled(before_answer(laid.open), Text(thought), law.told)
    return _filled(answered_from(laid.open, thought), laid.answer, weight)


def _filled(parts: Sequence[Part], answer: Text | Image, weight: float) -> Lesson:
    """Return a prompt with the answer in its gap."""
    return tuple(Answer(answer, weight) if isinstance(part, Gap) else part for part in parts)


def encode_lessons(lessons: Sequence[Lesson], codec: Codec, law: LessonWeights) -> list[Weighted]:
    """Return sequences of lessons with the weights of their answers, and `law.rest` for all else; pictures encoded
    together.

    The end of an answer, `<eoss>` or the border after a picture, weighs as the answer does. A code of a picture that
    is like another one weighs `law.kept` where that one has the same.
    """
    documents = [Document(tuple(_open(part) for part in lesson)) for lesson in lessons]
    v, made = codec.vocab, []
    for lesson, document, prompt in zip(lessons, documents, codec.encode_prompts(documents), strict=True):
        ids = prompt.tokens.ids
        weights = np.full(len(ids), law.rest, np.float32)
        pieces = [Weighted(prompt.tokens, weights)]
        for (start, stop), group in zip(runs(ids, v)[:-1], groups(document), strict=True):
            at = group[0][0]
            answer = lesson[at]
            if isinstance(answer, Answer) and isinstance(answer.part, Image) and answer.part.gap is None:
                weights[start : stop + 1] = answer.weight
                if answer.like is not None:
                    same = prompt.codes[at] == prompt.codes[answer.like]
                    weights[start:stop] *= np.where(same, law.kept, 1.0).ravel()
        for hole in prompt.holes:
            answer = lesson[hole.part]
            if isinstance(answer, Answer) and isinstance(answer.part, Text):
                space = space_before(lesson[hole.part - 1] if hole.part else None)
                span = text_tokens(codec.text.encode(space + answer.part.text), v)
                tail = weighted_tail(hole.mask, span, v, answer.weight, law.rest)
                if answer.end is not None:
                    said = text_tokens(codec.text.encode(space + answer.part.text.rpartition(" ")[0]), v)
                    tail.weights[said.length - span.length - 1 : -1] = answer.end
                pieces.append(tail)
            elif isinstance(answer, Answer) and isinstance(answer.part, Image):
                start, stop = hole.cells[0] - 1, hole.cells[-1]
                span = image_tokens(prompt.codes[hole.part], v).slice(start, stop)
                pieces.append(weighted_tail(hole.mask, span, v, answer.weight, law.rest))
        made.append(Weighted.concat(pieces))
    return made


def lesson_texts(seed: int, number: int) -> Iterator[str]:
    """Yield the words of so many examples, of each task in turn: what a text tokenizer is learnt from."""
    for i in range(number):
        task = TASKS[i % len(TASKS)]
        laid = lesson_of(make_example(task, example_rng(task, seed, i), 16, "train"))
        parts = [part.part if isinstance(part, Answer) else part for part in laid]
        yield " ".join(part.text for part in parts if isinstance(part, Text))


def _open(part: Part | Answer) -> Part:
    """Return a part as it stands in the sequence: an answer in words is a hole."""
    if not isinstance(part, Answer):
        return part
    return part.part if isinstance(part.part, Image) else Gap("text")


def _questions(rng: np.random.Generator, size: int, split: Split, law: LessonWeights, thinks: bool) -> Lesson:
    """Return one or several questions about one sheet, each answer masked; before them a thought."""
    sheet = random_sheet(rng, split, law.number(rng))
    image = picture(sheet, size)
    asked: dict[str, str] = {}
    for _ in range(_several(rng, law.most_questions)):
        question = _question(sheet, rng, QUESTIONS[by_share(rng, law.questions)])
        if law.own and rng.random() < law.own:
            question = question_in_own_words(question, rng)
        asked[question.question] = question.answer
    fields: list[Fields] = [{"question": q, "answer": a, "image": image} for q, a in asked.items()]
    lesson = tuple(_in_turn("vqa2", fields, [True] * len(fields), law))
    return answered_from(lesson, outright(sheet)) if thinks else lesson


def _dialogue(rng: np.random.Generator, size: int, split: Split, law: LessonWeights, thinks: bool) -> Lesson:
    """Return a dialogue: the last answer is masked, and of those before as many as not; before it a thought."""
    sheet = random_sheet(rng, split, law.number(rng))
    turns, caption = random_dialogue(sheet, rng), brief(sheet, rng)
    turns = turns[: int(rng.integers(len(turns))) + 1]
    image = picture(sheet, size)
    masked = [*(rng.random(len(turns) - 1) < 0.5).tolist(), True]
    fields: list[Fields] = [
        {**dialogue_fields(caption, turns, i), "history": "" if i else caption, "image": image}
        for i in range(len(turns))
    ]
    lesson = tuple(_in_turn("visdial", fields, masked, law))
    return answered_from(lesson, outright(sheet)) if thinks else lesson


def _in_turn(task: str, asked: Sequence[Fields], masked: Sequence[bool], law: LessonWeights) -> Iterator[Part | Answer]:
    """Lay questions out by the template one below the other, and their picture; an answer is masked or told."""
    template, gives, text = find_task(task).template(TEMPLATES.get(task, 0)), find_task(task).gives, ""
    for i, (fields, asks) in enumerate(zip(asked, masked, strict=True)):
        laid = template.lay_out(fields, gives)
        assert isinstance(laid.before[0], Text) and isinstance(laid.answer, Text) and isinstance(laid.after[0], Text)
        text += ("\n" if i else "") + laid.before[0].text.lstrip("\n")
        if asks:
            yield Text(text)
            yield Answer(laid.answer, law.short)
            text = laid.after[0].text
        else:
            text += laid.answer.text + laid.after[0].text
    yield Text(text)
    yield laid.after[1]


def _edits(rng: np.random.Generator, size: int, split: Split, law: LessonWeights, thinks: bool) -> Lesson:
    """Return one or several edits, each of the sheet that the one before made, from instructions or thoughts."""
    sheet: Sheet | None = None
    number = law.number(rng)
    parts: list[Part | Answer] = []
    for _ in range(_several(rng, law.most_edits)):
        edit = _edit(rng, split, law, sheet, number)
        sheet, after = edit.after, picture(edit.after, size)
        words = _after(edit, law) if thinks else edit.instruction
        if not parts:
            parts += _edit_prompt(edit.before, words, size)[:-1]
        else:
            parts.append(Text(words))
        parts.append(Answer(after, like=len(parts) - 2))
    return tuple(parts)


def _edit_thoughts(rng: np.random.Generator, size: int, split: Split, law: LessonWeights) -> Lesson:
    """Return the thoughts of one or several edits of one sheet."""
    number = law.number(rng)
    if law.shown:
        edit = _edit(rng, split, law, None, number)
        prompt = before_change(_edit_prompt(edit.before, edit.instruction, size), outright(edit.before))
        return _filled(prompt, Text(_after(edit, law)), law.told)
    parts: list[Part | Answer] = []
    before: Sheet | None = None
    asked: set[str] = set()
    for _ in range(_several(rng, law.most_thoughts)):
        edit = _edit(rng, split, law, before, number)
        if edit.instruction in asked:
            continue
        asked.add(edit.instruction)
        thought = Answer(Text(_after(edit, law)), law.told)
        *given, asks, _, end = before_picture(_edit_prompt(edit.before, edit.instruction, size))
        assert isinstance(asks, Text)
        if before is None:
            parts += [*given, asks]
        else:
            parts[-1] = Text(f"{END}\n{asks.text}")
        parts += [thought, end]
        before = edit.before
    return tuple(parts)


def _edit(rng: np.random.Generator, split: Split, law: LessonWeights, before: Sheet | None, number: int | None) -> Edit:
    """Return an edit of a kind by its share, perhaps in own words."""
    edit = random_edit(rng, split, EDITS[by_share(rng, law.edits)], before, number)
    return edit_in_own_words(edit, rng) if law.own and rng.random() < law.own else edit


def _after(edit: Edit, law: LessonWeights) -> str:
    """Return the thought of an edit."""
    return outright(edit.after, kept_order(edit.before, edit.after) if law.kept_order else None)


def _edit_prompt(sheet: Sheet, instruction: str, size: int) -> tuple[Part, ...]:
    """Return what asks for an edit, with a gap."""
    return find_task("edit").prompt(image1=picture(sheet, size), instruction=instruction).parts


def _loose(rng: np.random.Generator, size: int, split: Split, law: LessonWeights) -> Lesson:
    """Return a sheet from words that leave some of it open, or the thought of any words; of sheets of one, half and
    more are in the middle."""
    if law.wishes and rng.random() < law.wishes:
        return _wish(rng, size, split, law)
    number, middle = law.number(rng), rng.random() < 0.5
    sheet = random_sheet(rng, split, number)
    while number == 1 and middle and sheet.stickers[0].place != "middle":
        sheet = random_sheet(rng, split, number)
    if not (law.think > 0 and rng.random() < law.think):
        return Text(loosely(sheet, rng)), Answer(picture(sheet, size))
    names: dict[str, str] = {}
    if rng.random() < law.renamed:
        names = {pick(rng, [s.kind for s in sheet.stickers]): name_of(int(rng.integers(NAMES)))}
        if law.both > 0 and rng.random() < law.both:
            names[pick(rng, [s.kind for s in sheet.stickers])] = name_of(int(rng.integers(NAMES)))
    # A thought has the order of its words, so that each place follows from those said.
    order = [int(i) for i in rng.permutation(len(sheet.stickers))]
    told = names or rng.random() < 0.5
    words = describe(sheet, rng, names=names, order=order) if told else loosely(sheet, rng, order)
    return _filled(before_picture((Text(words), Gap("image"))), Text(outright(sheet, order, names)), law.told)


def _wish(rng: np.random.Generator, size: int, split: Split, law: LessonWeights) -> Lesson:
    """Return a sheet from a wish, or the thought of it, which has the order of its words."""
    wish, sheet, order = random_wish(rng, split, law.number(rng))
    if not (law.think > 0 and rng.random() < law.think):
        return Text(wish.text), Answer(picture(sheet, size))
    return _filled(before_picture((Text(wish.text), Gap("image"))), Text(outright(sheet, order)), law.told)


def _holes(rng: np.random.Generator, size: int, split: Split, law: LessonWeights) -> Lesson:
    """Return a caption with a piece of it missing, or all of it, its picture, and perhaps a thought before it."""
    sheet = random_sheet(rng, split, law.number(rng))
    caption = describe(sheet, rng, in_order=bool(rng.random() < 0.5))
    if rng.random() < WHOLE:
        lesson = _filled((Gap("text"), picture(sheet, size)), Text(caption), law.told)
    else:
        _, missing, parts = hide_piece(caption, rng)
        lesson = _filled((*parts, picture(sheet, size)), Text(missing), law.short)
    lesson = _copied(lesson, rng, law)
    if not (law.think > 0 and rng.random() < law.think):
        return lesson
    return _read(answered_from(lesson, outright(sheet)), rng, law)


def _region(rng: np.random.Generator, size: int, split: Split, law: LessonWeights) -> Lesson:
    """Return the words of a sheet, or the thought of them, and its picture, of which what is in a box is missing; most
    boxes have a sticker in them."""
    sheet = random_sheet(rng, split, law.number(rng))
    thinks = law.think > 0 and rng.random() < law.think
    order = [int(i) for i in rng.permutation(len(sheet.stickers))]
    words = outright(sheet, order) if thinks else describe(sheet, rng, order=order)
    shown = [s.place for s in sheet.stickers]
    place = pick(rng, shown if rng.random() < FULL else [p for p in PLACES if (p == "middle") == (shown == ["middle"])])
    # What stood there before may have been larger.
    now = sheet.at(place)
    box = random_box(rng, place, [pick(rng, SIZES), *([now.size] if now else [])], size)
    return Text(words), Answer(picture(sheet, size).with_gap(box))


def _read(lesson: Lesson, rng: np.random.Generator, law: LessonWeights) -> Lesson:
    """Return an answer from a thought, by chance without its picture where words stand after the answer: one that ends
    the prompt is another prompt, gone on with from the left."""
    alone = tuple(part for part in lesson if not isinstance(part, Image))
    if not law.read or rng.random() >= law.read or isinstance(alone[-1], Answer):
        return lesson
    return alone


def _copied(lesson: Lesson, rng: np.random.Generator, law: LessonWeights) -> Lesson:
    """Return a lesson, by chance with a copy of the picture that it gives."""
    if not law.copies or rng.random() >= law.copies:
        return lesson
    which, how = rng.random(2).tolist()
    return tuple(Image(copy_of(p.pixels, which, how)) if isinstance(p, Image) else p for p in lesson)


def _hidden(lesson: Lesson, parts: tuple[int, ...]) -> Lesson:
    """Return the prompt and the first answer of a lesson, some parts as masks, and nothing that tells what they
    were."""
    first = next(i for i, part in enumerate(lesson) if isinstance(part, Answer))
    gaps = [Gap("text") if isinstance(part, Text) else Gap("image") for part in lesson[:first]]
    kept = tuple(gap if i in parts else part for i, (part, gap) in enumerate(zip(lesson, gaps, strict=False)))
    answer = lesson[first]
    assert isinstance(answer, Answer)
    # an edit whose picture stays still says what it is like
    return (*kept, answer if answer.like not in parts else answer._replace(like=None))


def _question(sheet: Sheet, rng: np.random.Generator, kind: str) -> Question:
    """Return a question of a kind, or of another where a sheet allows none of it."""
    try:
        return random_question(sheet, rng, kind)
    except ConfigError:
        return random_question(sheet, rng)


def _several(rng: np.random.Generator, most: int) -> int:
    return 1 if most == 1 or rng.random() < ONE else int(rng.integers(2, most + 1))
