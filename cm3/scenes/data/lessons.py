"""Scene tasks as training sequences: several answers from one picture, and a loss weight for every token.

    </s> Question: q1 Answer:<mask:0>. Question: q2 Answer:<mask:1>. <break> codes </s> <mask:0> a1 <eoss> <mask:1> ..
    </s> Edit first ... <break> codes <break> instruction <break> CODES <break> instruction <break> CODES </s>

A lesson is a document in which some parts are answers. Its loss is on those; an answer in words is moved to the end, as
`cm3.tasks.encode` does, and a picture stays where it is written. Up to its first answer, a lesson is what
`Task.prompt` makes of the same fields, token for token. More of them in one sequence, about one picture or each edit
after the one before, is what the same computation teaches more with: a question costs 40 tokens, its picture 64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import PIL.Image
from numpy.lib.stride_tricks import sliding_window_view

from cm3.data.load import Source
from cm3.document import Document, Gap, Image, Part, Text
from cm3.errors import ConfigError
from cm3.scenes.ask import KINDS as QUESTIONS
from cm3.scenes.ask import Question, random_question
from cm3.scenes.data.lesson_documents import (
    TEMPLATES,
    SceneExample,
    dialogue_fields,
    example_rng,
    make_example,
)
from cm3.scenes.drawing import draw, middles
from cm3.scenes.phrases import pick
from cm3.scenes.scene import PLACES, Scene, Split, random_scene
from cm3.scenes.scene_edits import KINDS as EDITS
from cm3.scenes.scene_edits import random_edit
from cm3.scenes.sentences import brief
from cm3.scenes.talk import random_dialogue
from cm3.sequence.answers import Weighted, weighted_tail
from cm3.sequence.holes import groups, space_before
from cm3.sequence.segments import image_tokens, runs, text_tokens
from cm3.sequence.unconditional import HIDDEN
from cm3.tasks.examples import find_task
from cm3.tokens.codec import Codec
from cm3.vocab import Tokens

KEPT = 0.5
"""Weight of a code that is as it was before an edit, beside one that is other: most of an edit is copying."""
REACH = 6 / 128
"""How far, as a share of the side, an edit is taken to reach beyond the pixels that it changes. With less, pictures of
stitched codes read back wrongly now and then (94% right at 2 / 128); with this, as those of whole ones."""
COPYING = ("edit", "segmentation", "segment")
"""Tasks whose picture follows from the same cell of another one, or nearly."""
MOST_QUESTIONS, MOST_EDITS = 8, 5
"""Most questions about one picture, and most edits one after the other."""
ONE = 0.3
"""Share of lessons about questions or edits that have just one, as a user asks."""


class Answer(NamedTuple):
    """A part that the model is to give. `like`: index of the part, a picture, that this one repeats where it can."""

    part: Text | Image
    weight: float = 1.0
    like: int | None = None


Lesson = tuple[Part | Answer, ...]
_Fields = dict[str, str | Image]


@dataclass(frozen=True)
class SceneTaskMix:
    """Shares of the sequences by task, in any unit; `plain` is documents as in pretraining. Raises `ConfigError`."""

    plain: float = 19.0
    """Documents as in pretraining."""
    edit: float = 7.0
    """A picture changed as an instruction says."""
    write: float = 9.0
    """Letters in a picture."""
    boxes: float = 6.0
    """A scene from its objects and their boxes."""
    canny: float = 4.5
    """A scene from its edges."""
    segmentation: float = 4.5
    """A scene from its map of segments."""
    depth: float = 4.5
    """A scene from its map of depth."""
    scribble: float = 4.5
    """A scene from a scribble."""
    coco_captions: float = 4.0
    """A caption."""
    image_paragraph: float = 4.0
    """A description in several sentences."""
    vqa2: float = 13.0
    """An answer to a question."""
    visdial: float = 5.0
    """A conversation about a picture."""
    scienceqa: float = 5.0
    """A question with choices, and the reason of its answer."""
    segment: float = 5.0
    """A map of what a picture shows."""

    def __post_init__(self) -> None:
        for name, share in dataclasses.asdict(self).items():
            if not (np.isfinite(share) and share >= 0):
                raise ConfigError(f"mix.{name}={share}: is a share, must be a number of 0 or more")
        if not sum(dataclasses.asdict(self).values()) > 0:
            raise ConfigError("mix: the shares sum to nothing; give a task one")

    @property
    def shares(self) -> dict[str, float]:
        """Return shares that sum to 1, by name."""
        given = dataclasses.asdict(self)
        return {name: share / sum(given.values()) for name, share in given.items()}


@dataclass(frozen=True)
class LessonLaw:
    """The weights of lessons, and the parts that are left out of them. Raises `ConfigError` for a value out of
    range."""

    rest: float = 0.0
    """Loss weight of what is no answer: words and pictures of the prompt."""
    short: float = 6.0
    """Loss weight of answers of a few words: a picture is 64 targets, an answer 3."""
    told: float = 2.0
    """Loss weight of captions and explanations; long descriptions weigh 1."""
    unsaid: float = 0.1
    """Share of pictures made from another one whose prompt has its words, or these and the picture, as masks: what
    guidance guides away from (cm3/sequence/unconditional.py)."""
    shuffled: float = 0.3
    """Share of edits and segmentations whose pictures have their codes in another order, all in the same one: how
    pictures usually look helps little there, reading the same cell of the one before does (docs/log.md)."""
    objects: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    """Shares of scenes with 1, 2, 3, 4 objects. Which thing is which is learnt from two far sooner (docs/log.md)."""
    edits: tuple[float, ...] = (1.0,) * len(EDITS)
    """Shares of the kinds of edit, in the order of `cm3.scenes.scene_edits.KINDS`: what is learnt already needs few."""
    questions: tuple[float, ...] = (1.0,) * len(QUESTIONS)
    """Shares of the kinds of question, in the order of `cm3.scenes.ask.KINDS`."""

    def __post_init__(self) -> None:
        for name in ("rest", "short", "told"):
            if not 0 <= getattr(self, name) <= 100:
                raise ConfigError(f"law.{name}={getattr(self, name)}: is a loss weight, must be in 0..100")
        for name in ("unsaid", "shuffled"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"law.{name}={getattr(self, name)}: is a share, must be in 0..1")
        for name, of in (("objects", PLACES), ("edits", EDITS), ("questions", QUESTIONS)):
            shares = getattr(self, name)
            if len(shares) != len(of) or not min(shares) >= 0 or not 0 < sum(shares) < np.inf:
                raise ConfigError(
                    f"law.{name}={shares}: must be {len(of)} shares of 0 or more that do not sum to nothing"
                )

    def number(self, rng: np.random.Generator) -> int:
        """Return how many objects a scene is to have."""
        return _drawn(self.objects, rng) + 1


class SceneTaskSource(Source):
    """`Source` (cm3/data/load.py) of lessons, and of the documents of `plain` among them, which are masked as ever."""

    def __init__(
        self,
        codec: Codec,
        seed: int,
        mix: SceneTaskMix | None = None,
        law: LessonLaw | None = None,
        *,
        plain: Source | None = None,
        split: Split = "train",
    ) -> None:
        """Raise `ConfigError` for a codec without pictures, and for a share of `plain` where there is none."""
        if codec.image is None:
            raise ConfigError("codec: scene tasks have pictures; give it an image tokenizer")
        self.codec, self.seed, self.split, self.plain = codec, seed, split, plain
        self.mix, self.law = mix or SceneTaskMix(), law or LessonLaw()
        if self.mix.plain > 0 and plain is None:
            raise ConfigError(f"mix.plain={self.mix.plain}: there are no plain documents; give some, or a share of 0")
        self._names, self._bounds = list(self.mix.shares), np.cumsum(list(self.mix.shares.values()))[:-1]

    def task(self, index: int) -> str:
        """Return the task of sequence `index`, or "plain"."""
        rng = np.random.default_rng([self.seed, 0x717, index])
        return self._names[int(np.searchsorted(self._bounds, rng.random(), side="right"))]

    def lesson(self, index: int) -> Lesson:
        """Return the lesson of sequence `index`, which is not plain."""
        task = self.task(index)
        assert self.codec.image is not None  # checked
        return make_lesson(task, example_rng(task, self.seed, index), self.codec.image.size, self.split, self.law)

    def sequences(self, positions: Sequence[int]) -> list[Tokens | Weighted]:
        """Return these sequences: lessons with their weights, and plain documents to be masked."""
        plain = [i for i in positions if self.task(i) == "plain"]
        documents = iter(self.plain.sequences(plain) if plain and self.plain is not None else [])
        taught = [i for i in positions if i not in plain]
        made = encode_lessons([self.lesson(i) for i in taught], self.codec, self.law.rest)
        lessons = iter([self._shuffled(i, one) for i, one in zip(taught, made, strict=True)])
        return [next(documents) if i in plain else next(lessons) for i in positions]

    def _shuffled(self, index: int, lesson: Weighted) -> Weighted:
        rng = np.random.default_rng([self.seed, 0x5F, index])
        codes = int(lesson.tokens.cells.max())
        if self.task(index) not in COPYING or rng.random() >= self.law.shuffled:
            return lesson
        return reordered(lesson, rng.permutation(codes))

    def make(self) -> None:
        """Make what the plain documents need."""
        if self.plain is not None:
            self.plain.make()


def make_lesson(task: str, rng: np.random.Generator, size: int, split: Split, law: LessonLaw) -> Lesson:
    """Return a lesson of a task: one of its examples, or several that belong together."""
    if task == "vqa2":
        lesson = _questions(rng, size, split, law)
    elif task == "visdial":
        lesson = _dialogue(rng, size, split, law)
    elif task == "edit":
        lesson = _edits(rng, size, split, law)
    else:
        weight = {"scienceqa": law.told, "coco_captions": law.told}.get(task, 1.0)
        lesson = lesson_of(make_example(task, rng, size, split, law.number(rng)), weight)
    hidden = HIDDEN.get("control" if find_task(task).control else task)
    return _hidden(lesson, pick(rng, hidden)) if hidden and rng.random() < law.unsaid else lesson


def lesson_of(example: SceneExample, weight: float = 1.0) -> Lesson:
    """Return a lesson of one example, its answer weighing `weight`."""
    laid = find_task(example.task).template(example.template).lay_out(example.fields, find_task(example.task).gives)
    return (*laid.before, Answer(laid.answer, weight), *laid.after)


def encode_lessons(lessons: Sequence[Lesson], codec: Codec, rest: float = 0.0) -> list[Weighted]:
    """Return sequences of lessons with the weights of their answers, and `rest` for all else; pictures encoded
    together.

    The end of an answer, `<eoss>` or the border after a picture, weighs as the answer does. A picture that is like
    another has that one's codes wherever it shows the same: an encoder that sees the whole picture would change codes
    everywhere, in ways that no instruction foretells.
    """
    documents = [Document(tuple(_open(part) for part in lesson)) for lesson in lessons]
    v, made = codec.vocab, []
    for lesson, document, prompt in zip(lessons, documents, codec.encode_prompts(documents), strict=True):
        ids, codes = prompt.tokens.ids.copy(), dict(prompt.codes)
        weights = np.full(len(ids), rest, np.float32)
        pieces = [Weighted(Tokens(ids, prompt.tokens.cells), weights)]
        for (start, stop), group in zip(runs(ids, v)[:-1], groups(document), strict=True):
            at = group[0][0]
            answer = lesson[at]
            if isinstance(answer, Answer) and isinstance(answer.part, Image):
                weights[start : stop + 1] = answer.weight
                if answer.like is not None:
                    before = _picture(lesson[answer.like])
                    changed = changed_cells(before, answer.part.pixels, prompt.codes[at].shape)
                    codes[at] = np.where(changed, prompt.codes[at], codes[answer.like])
                    ids[start:stop] = image_tokens(codes[at], v).ids
                    weights[start:stop] *= np.where(changed, 1.0, KEPT).ravel()
        for hole in prompt.holes:
            answer = lesson[hole.part]
            if isinstance(answer, Answer) and isinstance(answer.part, Text):
                space = space_before(lesson[hole.part - 1] if hole.part else None)
                span = text_tokens(codec.text.encode(space + answer.part.text), v)
                pieces.append(weighted_tail(hole.mask, span, v, answer.weight, rest))
        made.append(Weighted.concat(pieces))
    return made


def changed_cells(before: PIL.Image.Image, after: PIL.Image.Image, grid: tuple[int, ...]) -> np.ndarray:
    """Return the cells of a grid (rows, columns) that an edit touches, bool: those within `REACH` of a pixel that it
    changes."""
    other = (np.asarray(before.convert("RGB")) != np.asarray(after.convert("RGB"))).any(-1)
    reach = round(REACH * len(other))
    for axis in (0, 1):
        padded = np.pad(other, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)])
        other = sliding_window_view(padded, 2 * reach + 1, axis).any(-1)
    (height, width), (rows, columns) = other.shape, grid
    return other.reshape(rows, height // rows, columns, width // columns).any((1, 3))


def reordered(lesson: Weighted, order: np.ndarray) -> Weighted:
    """Return the same with the codes of each picture in another order, and their weights with them; cells stay in
    theirs."""
    tokens = lesson.tokens
    ids, weights = tokens.ids.copy(), lesson.weights.copy()
    for start in np.flatnonzero(tokens.cells == 1).tolist():
        span = slice(start, start + len(order))
        ids[span], weights[span] = ids[span][order], weights[span][order]
    return Weighted(Tokens(ids, tokens.cells), weights)


def _picture(part: Part | Answer) -> PIL.Image.Image:
    image = part.part if isinstance(part, Answer) else part
    assert isinstance(image, Image)  # `like` is the index of a picture
    return image.pixels


def _open(part: Part | Answer) -> Part:
    """Return a part as it stands in the sequence: an answer in words is a hole."""
    if not isinstance(part, Answer):
        return part
    return part.part if isinstance(part.part, Image) else Gap("text")


def _questions(rng: np.random.Generator, size: int, split: Split, law: LessonLaw) -> Lesson:
    """Return one or several questions about one scene, each answer masked."""
    scene = random_scene(rng, split, law.number(rng))
    image = Image(draw(scene, size, rng))
    asked: dict[str, str] = {}
    for _ in range(_several(rng, MOST_QUESTIONS)):
        question = _question(scene, rng, QUESTIONS[_drawn(law.questions, rng)])
        asked[question.question] = question.answer
    fields: list[_Fields] = [{"question": q, "answer": a, "image": image} for q, a in asked.items()]
    return tuple(_in_turn("vqa2", fields, [True] * len(fields), law))


def _dialogue(rng: np.random.Generator, size: int, split: Split, law: LessonLaw) -> Lesson:
    """Return a dialogue: the last answer is masked, and of those before as many as not."""
    scene = random_scene(rng, split, law.number(rng))
    turns, caption = random_dialogue(scene, rng), brief(scene, rng)
    turns = turns[: pick(rng, tuple(range(1, len(turns) + 1)))]
    image = Image(draw(scene, size, rng))
    masked = [*(rng.random(len(turns) - 1) < 0.5).tolist(), True]
    fields: list[_Fields] = [
        {**dialogue_fields(caption, turns, i), "history": "" if i else caption, "image": image}
        for i in range(len(turns))
    ]
    return tuple(_in_turn("visdial", fields, masked, law))


def _in_turn(task: str, asked: Sequence[_Fields], masked: Sequence[bool], law: LessonLaw) -> Iterator[Part | Answer]:
    """Lay questions out by the template one below the other, and their picture; an answer is masked or told."""
    template, gives, text = find_task(task).template(TEMPLATES.get(task, 0)), find_task(task).gives, ""
    for i, (fields, hide) in enumerate(zip(asked, masked, strict=True)):
        laid = template.lay_out(fields, gives)
        assert isinstance(laid.before[0], Text) and isinstance(laid.answer, Text) and isinstance(laid.after[0], Text)
        text += ("\n" if i else "") + laid.before[0].text.lstrip("\n")
        if hide:
            yield Text(text)
            yield Answer(laid.answer, law.short)
            text = laid.after[0].text
        else:
            text += laid.answer.text + laid.after[0].text
    yield Text(text)
    yield laid.after[1]


def _edits(rng: np.random.Generator, size: int, split: Split, law: LessonLaw) -> Lesson:
    """Return one or several edits, each of what the one before made."""
    at, scene, number = middles(rng), None, law.number(rng)
    parts: list[Part | Answer] = []
    for _ in range(_several(rng, MOST_EDITS)):
        edit = random_edit(rng, split, EDITS[_drawn(law.edits, rng)], scene, number)
        scene, after = edit.after, Image(draw(edit.after, size, at=at))
        if not parts:
            before = Image(draw(edit.before, size, at=at))
            fields: _Fields = {"image1": before, "instruction": edit.instruction, "image2": after}
            parts += find_task("edit").template(0).lay_out(fields, ("image2",)).before
        else:
            parts.append(Text(edit.instruction))
        parts.append(Answer(after, like=len(parts) - 2))
    return tuple(parts)


def _hidden(lesson: Lesson, parts: tuple[int, ...]) -> Lesson:
    """Return the prompt and the first answer of a lesson, some parts as masks, and nothing that tells what they
    were."""
    first = next(i for i, part in enumerate(lesson) if isinstance(part, Answer))
    gaps = [Gap("text") if isinstance(part, Text) else Gap("image") for part in lesson[:first]]
    kept = tuple(gap if i in parts else part for i, (part, gap) in enumerate(zip(lesson, gaps, strict=False)))
    return (*kept, lesson[first]._replace(like=None))  # type: ignore[union-attr]


def _question(scene: Scene, rng: np.random.Generator, kind: str) -> Question:
    """Return a question of a kind, or of another where a scene allows none of it."""
    try:
        return random_question(scene, rng, kind)
    except ConfigError:
        return random_question(scene, rng)


def _drawn(shares: Sequence[float], rng: np.random.Generator) -> int:
    """Return a place among shares, by them."""
    return int(np.searchsorted(np.cumsum(shares) / sum(shares), rng.random(), side="right"))


def _several(rng: np.random.Generator, most: int) -> int:
    return 1 if rng.random() < ONE else int(rng.integers(2, most + 1))
