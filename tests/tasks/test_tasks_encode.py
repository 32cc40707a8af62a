"""Training sequences: what is trained on is what a prompt of the same task starts with, and fills."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import tiny_model

from cm3.document import Document, Image, Text
from cm3.errors import ConfigError
from cm3.sequence.mask import cm3_unmask
from cm3.tasks import TASKS, Example, encode, find_task
from cm3.tasks.template import PICTURES

RNG = np.random.default_rng(0)
SHADES = {
    name: Image(PIL.Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8))) for name in sorted(PICTURES)
}
TEXTS = {
    "instruction": "paint it green", "ocr_content": "STOP", "caption": "a red circle",
    "segmentations": "dog at (0, 1) -> (2, 3)", "locations": "dog at location (0, 1) -> (2, 3)",
    "question": "What is it?", "answer": "a circle", "context": "N/A", "choices_text": "(A) dog (B) cat",
    "explanation": "It is round.", "history": "a red circle",
}  # fmt: skip
ALL = [(name, n) for name, task in TASKS.items() for n in range(len(task.templates))]


def example(name: str, n: int = 0, plain: bool = False) -> Example:
    task = find_task(name)
    return Example(task.templates[n].lay_out({**SHADES, **TEXTS}, task.gives, plain=plain), "d", "s", {})


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("name", "n"), ALL)
def test_a_sequence_is_the_prompt_and_then_the_answer(name: str, n: int, plain: bool) -> None:
    codec, task, one = tiny_model.codec(), find_task(name), example(name, n, plain)
    v = codec.vocab
    (made,) = encode([one], codec, weights="answer")
    asked = {f: (SHADES | TEXTS)[f] for f in task.templates[n].fields if f not in task.gives}
    prompt = codec.encode_prompt(task.prompt(n, plain=plain, **asked))
    ids, weights = made.tokens.ids, made.weights
    assert weights.shape == ids.shape and weights.dtype == np.float32
    moved = int((v.is_mask(ids)).sum())
    if task.output == "image" or plain:
        assert moved == 0 and ids[-1] == v.eos
        head = prompt.tokens.length - 2
        assert (ids[:head] == prompt.tokens.ids[:head]).all()
    else:
        assert moved == 2 and ids[-1] == v.eoss
        head = prompt.tokens.length + 1
        assert (ids[: head - 1] == prompt.tokens.ids).all() and ids[head - 1] == v.mask(0)
    assert (weights[:head] == 0).all() and (weights[head:] == 1).all()
    answer = ids[head:-1]
    filled = codec.fill(one.prompt, [answer])
    whole = codec.decode(cm3_unmask(made.tokens, v))
    if isinstance(one.answer, Text):
        assert filled.text == one.document.text == whole.text
        given = task.read(Document((*whole.images, Text(whole.text)) if plain else whole.parts), n)
        assert all(given[f] == TEXTS[f] for f in task.gives if f in given)
    else:
        assert codec.image is not None
        codes = codec.image.encode([one.answer.pixels]).ravel() + v.image_start
        assert (answer == codes).all() and (made.tokens.cells[head:-1] == np.arange(1, 17)).all()
        assert [p.text for p in whole.parts if isinstance(p, Text)] == [
            p.text.strip() for p in one.document.parts if isinstance(p, Text)
        ]


def test_many_at_once_are_as_one_by_one_and_weigh_1() -> None:
    codec = tiny_model.codec()
    some = [example(name, n) for name, n in ALL]
    for one, made in zip(some, encode(some, codec), strict=True):
        (alone,) = encode([one], codec)
        assert (alone.tokens.ids == made.tokens.ids).all() and (alone.tokens.cells == made.tokens.cells).all()
        assert (made.weights == 1).all()
    assert encode([], codec) == []


def test_an_unknown_word_for_weights() -> None:
    with pytest.raises(ConfigError, match="weights='answers': must be 'all' or 'answer'"):
        encode([], tiny_model.codec(), weights="answers")  # type: ignore[arg-type]
