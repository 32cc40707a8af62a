"""A thought is asked for with the prompt's own parts, and the prompt that goes on from it keeps its form."""

from __future__ import annotations

from typing import Any

import PIL.Image
import pytest

from cm3.document import Gap, Image, Part, Text
from cm3.tasks import find_task
from cm3.tasks.thought import END, ORDER, answered_from, before_answer, before_picture, drawn_from, thinks

PICTURE = Image(PIL.Image.new("RGB", (32, 32)))
EDIT: dict[str, Any] = {"image1": PICTURE, "instruction": "paint it red"}
QUESTION: dict[str, Any] = {"image": PICTURE, "question": "what is it?"}


def test_words_ask_for_their_thought_and_give_way_to_it() -> None:
    parts = (Text("a dog"), Gap("image"))
    assert before_picture(parts) == (Text(f"a dog {ORDER}"), Gap("text"), Text(END))
    assert drawn_from(parts, "a large dog in the middle") == (Text("a large dog in the middle"), Gap("image"))


def test_an_edit_keeps_its_order_and_its_picture() -> None:
    order, picture, said, gap = find_task("edit").prompt(**EDIT).parts
    assert before_picture((order, picture, said, gap)) == (
        order,
        picture,
        Text(f"paint it red {ORDER}"),
        Gap("text"),
        Text(END),
    )
    assert drawn_from((order, picture, said, gap), "a red dog") == (order, picture, Text("a red dog"), gap)


def test_a_question_is_thought_over_by_its_picture_alone_and_stays() -> None:
    parts = find_task("vqa2").prompt(**QUESTION).parts
    assert before_answer(parts) == (Text(ORDER), Gap("text"), Text(END), PICTURE)
    first, *others = answered_from(parts, "a dog")
    assert first == Text("a dog. Question: what is it? Answer: ") and tuple(others) == parts[1:]
    assert answered_from((Gap("text"), PICTURE), "a dog") == (Text("a dog."), Gap("text"), PICTURE)


@pytest.mark.parametrize(
    ("parts", "before"),
    [
        ((Text("a dog"), Gap("image")), "picture"),
        ((Text("as here"), PICTURE, Text("but red"), Gap("image")), "picture"),
        (find_task("vqa2").prompt(**QUESTION).parts, "answer"),
        ((PICTURE, Gap("image")), None),  # no words
        ((Text(" "), Gap("image")), None),
        ((Gap("image"),), None),
        ((Gap("image"), Text("a dog")), None),  # the picture does not come last
        ((Text("a dog"), Gap("interleaved")), None),
        ((Text("a dog"), PICTURE.with_gap((0, 0, 9, 9))), "picture"),  # a region
        ((PICTURE.with_gap((0, 0, 9, 9)),), None),
        ((Text("a dog"), PICTURE.with_gap((0, 0, 9, 9)), Gap("image")), None),
        ((Gap("text"), PICTURE), "answer"),  # a caption
        ((Text("a "), Gap("text"), Text(" dog"), PICTURE), "answer"),
        ((Text("a "), Gap("text"), Text(" and a "), Gap("text"), PICTURE), "answer"),
        ((Gap("interleaved"),), None),
        ((Text("a "), Gap("text"), Text(" dog")), None),  # no picture to think over
        ((Text("a "), Gap("text"), Gap("image")), None),  # two gaps
        ((Text("a dog"), PICTURE), None),  # none
    ],
)
def test_what_has_no_place_for_a_thought_has_none(parts: tuple[Part, ...], before: str | None) -> None:
    assert thinks(parts) == before
