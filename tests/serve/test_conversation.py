"""Messages to prompts: the task that each conversation becomes, and what has no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import PIL.Image
import pytest

from cm3.document import Document, Gap, Image, Text
from cm3.generate import CM3Leon
from cm3.serve.conversation import Asked, Kind, Message, asked
from cm3.serve.problem import Problem

RED, BLUE = (Image(PIL.Image.new("RGB", (128, 128), colour)) for colour in ("red", "blue"))
Said = Sequence[str | Image]


def messages(*said: Said) -> list[Message]:
    """Messages of the user and the assistant in turn."""
    return [
        Message(
            "assistant" if i % 2 else "user",
            tuple(Text(part) if isinstance(part, str) else part for part in parts),
            f"messages[{i}]",
        )
        for i, parts in enumerate(said)
    ]


def ask(model: CM3Leon, *said: Said, kind: Kind = "text") -> Asked:
    return asked(model, messages(*said), kind, "messages")


@pytest.mark.parametrize(
    ("said", "task", "fields"),
    [
        ([[RED]], "coco_captions", {"image": RED}),
        ([[RED, " "]], "coco_captions", {"image": RED}),
        ([["Describe this picture.", RED]], "coco_captions", {"image": RED}),
        ([[RED, "please describe it in detail"]], "image_paragraph", {"image": RED}),
        ([["is it red?", RED]], "vqa2", {"image": RED, "question": "is it red?"}),
        ([["is it ", RED, " red?"]], "vqa2", {"image": RED, "question": "is it red?"}),
        (
            [[RED], ["a circle"], ["is it red?"]],
            "visdial",
            {"image": RED, "history": "a circle", "question": "is it red?"},
        ),
        (
            [[RED, "is there a star?"], ["yes."], ["where is it?"], ["top left"], ["is it red?"]],
            "visdial",
            {
                "image": RED,
                "history": "Question: is there a star? Answer: yes.\nQuestion: where is it? Answer: top left.",
                "question": "is it red?",
            },
        ),
        ([["a red star"], [RED], ["where is it?"]], "visdial", {"image": RED, "history": "a red star"}),
        ([["a star"], [RED], ["paint it blue"], [BLUE], ["is it blue?"]], "vqa2", {"image": BLUE}),
        ([[RED], ["a circle"], ["describe it in detail"]], "image_paragraph", {"image": RED}),
    ],
)
def test_a_picture_is_described_or_asked_about(
    model: CM3Leon, said: list[Said], task: str, fields: dict[str, Any]
) -> None:
    made = ask(model, *said)
    assert made.kind == "text" and made.task == task
    assert isinstance(made.prompt, dict) and made.prompt.items() >= fields.items()


@pytest.mark.parametrize("kind", ["image", "interleaved"])
def test_words_are_drawn_and_the_last_picture_is_edited(model: CM3Leon, kind: Kind) -> None:
    assert ask(model, ["a red star"], kind=kind).prompt == Document.of("a red star", Gap("image"))
    for said in ([[RED, "paint it"]], [["paint it", RED]], [["a star"], [BLUE], ["red"], [RED], ["paint it"]]):
        made = ask(model, *said, kind=kind)
        assert (made.kind, made.task) == ("image", "edit")
        assert made.prompt == {"image1": RED, "instruction": "paint it"}


def test_asked_for_both_a_picture_alone_is_described(model: CM3Leon) -> None:
    assert ask(model, [RED], kind="interleaved").task == "coco_captions"
    assert ask(model, ["describe a star"], kind="interleaved").kind == "image", "there is none to describe"


def test_words_go_on_or_have_their_gaps_filled(model: CM3Leon) -> None:
    assert ask(model, ["a red"]).prompt == Document.of("a red", Gap("text"))
    made = ask(model, ["a <gap> star on a <gap>", RED])
    assert made.whole and made.prompt == Document.of("a ", Gap("text"), " star on a ", Gap("text"), RED)


def test_what_is_not_read_is_told(model: CM3Leon) -> None:
    assert ask(model, ["a star"], [RED], ["where is it?"]).warnings == ()
    told = ask(model, ["a star"], [RED], ["paint it blue"], [BLUE], ["is it blue?"]).warnings
    assert told == (
        "the words of messages[0] to messages[2] were not read: this model goes by the last picture and the last "
        "message",
    )
    assert ask(model, [RED], ["a star"], ["paint it"], kind="image").warnings[0].startswith("the words of messages[0]")


def test_messages_of_one_role_are_one(model: CM3Leon) -> None:
    parts = messages([RED], [], ["is it red?"])
    made = asked(model, [parts[0], parts[2]], "text", "messages")
    assert made.task == "vqa2"


def test_what_the_model_was_not_tuned_for(model: CM3Leon) -> None:
    class Untuned:
        """The model, with no task."""

        vocab, tasks = model.vocab, ()

    untuned: Any = Untuned()
    assert ask(untuned, [RED, "is it red?"]).warnings == (
        "this model was not tuned for the task 'vqa2', which these messages ask for: expect little of it",
    )
    for said, kind, task in (([[RED, "paint it"]], "image", "edit"), ([[RED], ["a"], ["b?"]], "text", "visdial")):
        with pytest.raises(Problem, match=f"^messages: this model was not tuned for the task '{task}'"):
            ask(untuned, *said, kind=kind)
    assert asked(untuned, messages([RED, "paint it"]), "image", "messages", masked=True).task == "edit"


@pytest.mark.parametrize(
    ("said", "kind", "field", "message"),
    [
        ([[" "]], "text", "messages[0].content", "is empty; say what you want"),
        ([[]], "image", "messages[0].content", "is empty; say what you want"),
        ([[RED]], "image", "messages[0].content", "has no words; say what to change"),
        ([[RED, BLUE]], "text", "messages[0]", "has 2 pictures; this model is asked about one at a time"),
        ([["a star"], ["two"]], "text", "messages", "the last message must be the user's"),
        ([["a star"], ["two"], ["three"]], "text", "messages[0]", "reads no earlier messages where none has a picture"),
        ([["a star"], ["two"], ["three"]], "image", "messages[0]", "reads no earlier messages"),
        ([[RED, "a?"], [" "], ["b?"]], "text", "messages[1].content", "is empty; leave it out"),
        ([[RED, "a?"], ["yes"], [" "]], "text", "messages[2].content", "is empty; ask something"),
        ([["a\0b"]], "text", "messages[0].content", "has a NUL character (at 1); take it out"),
        ([["a" * 32_001]], "text", "messages", "the texts have 32001, more than 32000 characters"),
        ([], "text", "messages", "the last message must be the user's"),
    ],
)
def test_what_has_no_answer_is_refused_with_the_field(
    model: CM3Leon, said: list[Said], kind: Kind, field: str, message: str
) -> None:
    with pytest.raises(Problem) as error:
        ask(model, *said, kind=kind)
    assert error.value.status == 400 and error.value.param == field
    assert error.value.message.startswith(field) and message in error.value.message


def test_a_text_is_read_without_the_space_around_it(model: CM3Leon) -> None:
    what = ask(model, ["a red circle on a"])
    made = model.generate(what.prompt, seed=1, candidates=1)
    (text,) = what.parts(made)
    assert isinstance(text, Text) and text.text == made.filled[0][0].text.strip() and text.text
    whole = replace(ask(model, ["a <gap> circle"]), whole=True)
    made = model.generate(whole.prompt, seed=1, candidates=1)
    (text,) = whole.parts(made)
    assert isinstance(text, Text) and text.text.startswith("a ") and text.text.endswith(" circle")


def test_a_generation_says_which_texts_were_cut(model: CM3Leon) -> None:
    prompt = [RED.pixels, Gap("text")]
    settings: Any = {"n": 2, "candidates": 1, "temperature": 0.0}
    assert model.generate(prompt, max_tokens=2, **settings).cut == (True, True)
    assert model.generate(prompt, max_tokens=200, **settings).cut == (False, False)
    assert model.generate("a red circle", temperature=0.0).cut == (False,)
