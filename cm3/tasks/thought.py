"""Thinking in words before the answer: what a picture will show, or what a given one shows, said in one sentence.

    a dog above a cat                    -> a dog above a cat Let's think step-by-step:<mask:0>.       the thought
    a large dog at the top left and ...  -> <break> codes                                              the picture

A thought is a text like any other, and asked for as one. Of an edit there are two: what the picture shows, and with
that, in words alone, what it will show. A picture is then drawn from the thought, which stands where
the user's last words stood (recaptioning, as "Improving Image Generation with Better Captions", 2023, does with another
model); an answer in words is given to the question with the thought before it. So training and generation make the
same documents, with the functions of this file. The paper has the order of words for reasoning alone (figure 16).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from cm3.document import Gap, Image, Part, Text

ORDER = "Let's think step-by-step:"
"""What asks for a thought: the paper's own words for reasoning."""
END = "."
"""What stands after a thought in its prompt, so that its place is a mask as that of an answer is."""

P = TypeVar("P")


def before_picture(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return what asks for the thought of a prompt whose last part, a picture, is to be made, all of it or in
    part: what stands before it."""
    *given, last = parts[:-1]
    assert isinstance(last, Text)  # as `thinks` says
    return (*given, Text(f"{last.text} {ORDER}"), Gap("text"), Text(END))


def before_answer(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return what asks for the thought of a prompt whose answer is words: its pictures alone."""
    return (Text(ORDER), Gap("text"), Text(END), *(part for part in parts if isinstance(part, Image)))


def before_change(parts: Sequence[Part], shown: str) -> tuple[Part, ...]:
    """Return what asks for the thought of an edit, whose picture `shown` tells: what is there, and the change."""
    said = parts[-2]
    assert isinstance(said, Text)  # as `thinks` says
    return (Text(f"{shown}{END} {said.text} {ORDER}"), Gap("text"), Text(END))


def drawn_from(parts: Sequence[Part], thought: str) -> tuple[Part, ...]:
    """Return the prompt of `before_picture` with the thought for its last words."""
    return (*parts[:-2], Text(thought), parts[-1])


def answered_from(parts: Sequence[P], thought: str) -> tuple[P | Text, ...]:
    """Return the prompt of `before_answer` with the thought before its words."""
    first, *others = parts
    if isinstance(first, Text):
        return (Text(f"{thought}{END} {first.text}"), *others)
    return (Text(f"{thought}{END}"), *parts)


def thinks(parts: Sequence[Part]) -> str | None:
    """Return what the thought of a prompt comes before, "picture" or "answer", None for a prompt that has none.

    A picture is the last part, and words that tell all of it stand before it; an answer is all the words that are
    missing beside a whole picture.
    """
    gaps = [part for part in parts if isinstance(part, Gap) or (isinstance(part, Image) and part.gap is not None)]
    if gaps and all(gap == Gap("text") for gap in gaps):
        return "answer" if any(isinstance(part, Image) for part in parts) else None
    if len(gaps) != 1 or gaps[0] == Gap("interleaved"):
        return None
    words = len(parts) > 1 and isinstance(parts[-2], Text) and parts[-2].text.strip()
    return "picture" if parts[-1] == gaps[0] and words else None
