"""What a guided prompt is pulled away from begins a training sequence that has those parts moved to its end."""

from __future__ import annotations

from collections.abc import Sequence

import PIL.Image
import pytest
import tiny_model
from PIL import ImageColor

from cm3.document import Image
from cm3.sequence.mask import move_spans
from cm3.sequence.segments import segments
from cm3.sequence.unconditional import HIDDEN, without, wordy
from cm3.tasks import Example, encode, find_task
from cm3.tasks.template import PICTURES
from cm3.vocab import Tokens


def picture(colour: str) -> PIL.Image.Image:
    """A picture of one colour."""
    return PIL.Image.new("RGB", (tiny_model.SIZE, tiny_model.SIZE), colour)


def example(kind: str) -> Example:
    """A training example of a kind of task."""
    task = find_task({"edit": "edit", "control": "depth", "segment": "segment"}[kind])
    pictures = {name: Image(picture(colour)) for name, colour in zip(PICTURES, ImageColor.colormap, strict=False)}
    words = {"instruction": "paint it blue", "caption": "a thing"}
    return Example(task.templates[0].lay_out(pictures | words, task.gives), "", "", {})


@pytest.mark.parametrize("kind", HIDDEN)
def test_each_stream_begins_a_training_sequence(kind: str) -> None:
    codec, one = tiny_model.codec(), example(kind)
    v = codec.vocab
    prompt = codec.encode(one.prompt)
    prompt = prompt.slice(0, prompt.length - 2)
    (whole,) = encode([one], codec)
    spans = segments(whole.tokens.ids, v)
    for hidden in HIDDEN[kind]:
        stream = without(prompt, hidden, v)
        trained = move_spans(whole.tokens, [spans[part] for part in hidden], v)
        assert stream.ids.tolist() == trained.ids[: stream.length].tolist()
        assert stream.cells.tolist() == trained.cells[: stream.length].tolist()
        # And what follows there is the picture that is to be made.
        assert v.is_image(trained.ids[stream.length : stream.length + 16]).all()
    assert wordy(prompt, v) == {"edit": [0, 2], "control": [0, 2], "segment": [0]}[kind]


@pytest.mark.parametrize(
    ("parts", "first", "want"),
    [
        ((0,), 0, "s0btb"),
        ((1,), 0, "stb0b"),
        ((0, 1), 2, "s2b3b"),
        ((), 0, "stbtb"),
        ((2,), 1, "stbtb1"),
    ],
)
def test_parts_are_counted_from_the_left_and_masks_from_the_first(parts: Sequence[int], first: int, want: str) -> None:
    v = tiny_model.codec().vocab
    made = without(Tokens.of([v.eos, v.text_start, v.brk, v.text_start, v.brk]), parts, v, first)
    named = {v.eos: "s", v.brk: "b", v.text_start: "t"} | {v.mask(i): str(i) for i in range(4)}
    assert "".join(named[int(i)] for i in made.ids) == want
