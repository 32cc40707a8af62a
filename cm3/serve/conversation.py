"""Messages become a prompt, and what is made of it an answer: parts of text and pictures.

    messages  --asked-->  Asked  --layout-->  Prepared  --Service-->  Generation  --parts-->  Text | Image ...

A model of cm3's grammar has no turns, so a conversation becomes the task that it is about:

    answer    last message                              becomes
    text      a picture alone, or "describe ..."        its description, in detail where the words say so
              a picture and a question                  the task of questions
              a question about an earlier picture       the dialogue task, with what was said since
              words with <gap>, a picture beside them   the words with their gaps filled
              words alone                               words that go on
    picture   words alone                               a new picture
              words, and a picture here or earlier      an edit of the last picture

Only the last picture is looked at, and of what was said before it at most the words that it was drawn from; that the
rest is not read is told in a warning. What the model was not tuned for is refused where it has a history or is to
change a picture, and told in a warning elsewhere. A model of the grammar "chameleon" goes on with words and pictures in
any order, and where its prompts have turns with all messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from cm3.document import Document, Gap, Image, Part, Text, check_text
from cm3.errors import DataError
from cm3.generate import CM3Leon, Generation
from cm3.generate.prepared import Prepared
from cm3.generate.tasks import CAPTION, DETAIL, QUESTION, read_reply
from cm3.sequence.turns import TURNS
from cm3.serve.bodies import LONGEST_PROMPT, MOST_IMAGES
from cm3.serve.problem import Problem
from cm3.tasks import find_task
from cm3.tasks.text_tasks import history

Kind = Literal["text", "image", "interleaved"]
"""Kinds of answer, as words of `Gap`; the last has words and pictures."""
Turn = Text | Image
GAP = "<gap>"
DIALOGUE, EDIT = "visdial", "edit"

_DESCRIBE = re.compile(r"(?:please )?(?:describe|caption)\b", re.I)
_AT_LENGTH = re.compile(r"\b(?:detail|detailed|length|long)\b", re.I)


class Message(NamedTuple):
    """One message; `field` is its name in errors."""

    role: Literal["user", "assistant"]
    parts: tuple[Turn, ...]
    field: str

    @property
    def words(self) -> str:
        """Return its texts, with a space between them."""
        return " ".join(p.text.strip() for p in self.parts if isinstance(p, Text) and p.text.strip())

    @property
    def pictures(self) -> list[Image]:
        """Return its pictures."""
        return [p for p in self.parts if isinstance(p, Image)]


@dataclass(frozen=True)
class Asked:
    """A prompt, or the fields of a task, and the kind of its answer."""

    kind: Kind
    prompt: Document | Mapping[str, Any]
    task: str | None = None
    warnings: tuple[str, ...] = ()
    whole: bool = False
    """Whether the answer is the prompt with its gaps filled, and not what fills them alone."""

    def layout(self, model: CM3Leon, seeds: Sequence[int], options: Mapping[str, Any]) -> Callable[[], list[Prepared]]:
        """Return what lays out an answer for each seed."""
        prompt = self.prompt
        if isinstance(prompt, Document):
            return lambda: model.prepare([prompt] * len(seeds), seeds=seeds, **options)
        assert self.task is not None, "fields are of a task"
        task = find_task(self.task)
        return lambda: model.prepare_task(task, [prompt] * len(seeds), seeds=seeds, **options)

    def parts(self, made: Generation) -> list[Turn]:
        """Return the answer; of a text without the space around it."""
        if self.task is not None:
            (value,) = read_reply(find_task(self.task), made).answers[0].values()
            return [Text(value) if isinstance(value, str) else Image(value)]
        if self.whole:
            return [Text(made.text)]
        (filled,) = made.filled
        if not filled:  # a region of a picture
            return [Image(made.image)]
        return [Text(part.text.strip()) if isinstance(part, Text) and self.kind == "text" else part for part in filled]

    def told(self, made: Generation) -> list[str]:
        """Return what the client should know of the answer. Looks at pictures, which takes time."""
        return [*self.warnings, *made.warnings]


def asked(model: CM3Leon, messages: Sequence[Message], kind: Kind, field: str, masked: bool = False) -> Asked:
    """Return what messages ask of a model; `field` is the one that they came in, `masked` whether a mask came with
    them, of the picture to edit. A model of cm3's grammar answers either with words or with a picture: asked for both
    it draws, but for a message that asks for a description.

    Raises `Problem` 400 for those that it has no answer to, with the reason.
    """
    messages = _joined(messages)
    said = [(message.field, part.text) for message in messages for part in message.parts if isinstance(part, Text)]
    if (length := sum(len(text) for _, text in said)) > LONGEST_PROMPT:
        most = f"more than {LONGEST_PROMPT} characters; shorten them"
        raise Problem(400, f"{field}: the texts have {length}, {most}", field, "context_length_exceeded")
    for where, text in said:
        check_words(text, f"{where}.content")
    if not messages or messages[-1].role != "user":
        raise Problem(400, f"{field}: the last message must be the user's", field)
    if model.vocab.grammar == "chameleon":
        if masked:
            raise Problem(400, f"{field}: this model fills no holes; leave the mask out", field)
        return _gone_on_with(model, messages, kind)
    about = next((i for i in reversed(range(len(messages))) if messages[i].pictures), None)
    if about is None:
        return _of_words(messages, kind)
    if len(messages[about].pictures) > 1:
        where, number = messages[about].field, len(messages[about].pictures)
        raise Problem(400, f"{where}: has {number} pictures; this model is asked about one at a time", where)
    if kind == "text" or (kind == "interleaved" and _describes(messages[-1], about == len(messages) - 1)):
        made = _answered(messages, about)
    else:
        made = _edited(messages, about)
    if made.task is None or made.task in model.tasks or masked:
        return made
    why = f"this model was not tuned for the task {made.task!r}, which these messages ask for"
    if made.task in (EDIT, DIALOGUE):
        rule = "ask for a new picture in words" if made.task == EDIT else "send the picture with one question"
        raise Problem(400, f"{field}: {why}; {rule}", field)
    return replace(made, warnings=(*made.warnings, f"{why}: expect little of it"))


def _of_words(messages: Sequence[Message], kind: Kind) -> Asked:
    """Return what words without any picture ask for."""
    last = messages[-1]
    if len(messages) > 1:
        why = "this model reads no earlier messages where none has a picture; send the last alone"
        raise Problem(400, f"{messages[0].field}: {why}", messages[0].field)
    if not last.words:
        raise Problem(400, f"{last.field}.content: is empty; say what you want", f"{last.field}.content")
    if kind != "text":
        return Asked("image", Document((Text(last.words), Gap("image"))))
    if GAP in last.words:
        return _infilled(last)
    return Asked("text", Document((*last.parts, Gap("text"))))


def _infilled(message: Message) -> Asked:
    """Return what words with gaps ask for, a picture beside them or not."""
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, Image):
            parts.append(part)
            continue
        for i, piece in enumerate(part.text.split(GAP)):
            parts += [Gap("text")] * bool(i) + [Text(piece)] * bool(piece)
    return Asked("text", Document(tuple(parts)), whole=True)


def _edited(messages: Sequence[Message], about: int) -> Asked:
    """Return the edit that messages ask for: of the last picture, as the last message says."""
    last, (picture,) = messages[-1], messages[about].pictures
    if not last.words:
        why = "has no words; say what to change in the picture, or ask for text to have it described"
        raise Problem(400, f"{last.field}.content: {why}", f"{last.field}.content")
    return Asked("image", {"image1": picture, "instruction": last.words}, EDIT, _not_read(messages[:-1]))


def _answered(messages: Sequence[Message], about: int) -> Asked:
    """Return the description or the answer that messages ask for, about their last picture."""
    last, (picture,) = messages[-1], messages[about].pictures
    alone = about == len(messages) - 1
    if alone and GAP in last.words:
        return _infilled(last)
    if _describes(last, alone):
        task = DETAIL if _AT_LENGTH.search(last.words) else CAPTION
        return Asked("text", {"image": picture}, task, _not_read(messages[:-1]))
    if not last.words:
        raise Problem(400, f"{last.field}.content: is empty; ask something", f"{last.field}.content")
    before = messages[:about]
    caption = ""
    if messages[about].role == "assistant" and [m.role for m in before] == ["user"] and not before[0].pictures:
        caption, before = before[0].words, ()  # the words that it was drawn from
    turns: list[tuple[str, str]] = []
    after = messages[about + (messages[about].role == "assistant") : -1]
    said = list(zip(after[::2], after[1::2], strict=True))
    if said and _describes(said[0][0], bool(said[0][0].pictures)):
        caption = said.pop(0)[1].words
    for question, answer in said:
        for message in (question, answer):
            if not message.words:
                raise Problem(400, f"{message.field}.content: is empty; leave it out", f"{message.field}.content")
        turns.append((question.words, answer.words.rstrip(".")))
    warnings = _not_read(before)
    if not caption and not turns:
        return Asked("text", {"image": picture, "question": last.words}, QUESTION, warnings)
    fields = {"image": picture, "question": last.words, "history": history(caption, turns).strip()}
    return Asked("text", fields, DIALOGUE, warnings)


def _describes(message: Message, alone: bool) -> bool:
    """Tell whether a message asks for a description; one with the picture does so by words, or by none."""
    return (alone and not message.words) or bool(_DESCRIBE.match(message.words))


def check_pictures(number: int, field: str) -> None:
    """Raise `Problem` for more pictures than may be sent at a time, before they are read."""
    if number > MOST_IMAGES:
        raise Problem(400, f"{field}: has {number} pictures, and {MOST_IMAGES} are the most; leave some out", field)


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Return messages of which no two of one role stand side by side."""
    made: list[Message] = []
    for message in messages:
        if made and made[-1].role == message.role:
            message = made[-1]._replace(parts=made[-1].parts + message.parts)
            made.pop()
        made.append(message)
    return made


def _not_read(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return the warning about messages whose words are not read."""
    if not any(message.words for message in messages):
        return ()
    first, last = messages[0].field, messages[-1].field
    named = first if first == last else f"{first} to {last}"
    return (f"the words of {named} were not read: this model goes by the last picture and the last message",)


def _gone_on_with(model: CM3Leon, messages: Sequence[Message], kind: Kind) -> Asked:
    """Return what a model of the grammar "chameleon" is asked: all of it, and what comes next."""
    if len(messages) > 1 and not model.codec.turns("text"):
        field = messages[0].field
        raise Problem(400, f"{field}: this model's prompts have one turn; send the last message alone", field)
    if not any(isinstance(part, Image) or part.text.strip() for part in messages[-1].parts):
        raise Problem(
            400, f"{messages[-1].field}.content: is empty; say what you want", f"{messages[-1].field}.content"
        )
    parts = [part for message in messages for part in message.parts]
    *starts, _ = accumulate(len(message.parts) for message in messages)
    return Asked(kind, Document((*parts, Gap(kind)), meta={TURNS: tuple(starts)}))


def check_words(text: str, field: str) -> None:
    """Raise `Problem` for a text that is none: one with a NUL or a lone surrogate."""
    try:
        check_text(text, field)
    except DataError as error:
        raise Problem(400, str(error), field) from error
