"""A model of Lumina-mGPT's kind: pictures with the marks of their size and rows, as its item_processor.py has them.

Facts: `<racm3:break>`, the height, the width, each row of codes with <reserved08799> behind it, `<eoss>`; a side of n x
32 pixels is <reserved{8800 + n}>; a turn ends in <reserved08706>, that of the answer too. Of guidance the other stream
begins at `<racm3:break>`, and its first code is drawn behind both sizes. What is expected here is in ids of the file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_chameleon
import tiny_model
import torch
from published_tokenizer import spelled
from test_generate import PICTURE, noise

from cm3.document import Document, Gap, Image, Text
from cm3.engine.grammar import Interleaved, size
from cm3.errors import CheckpointError, DataError, RequestError
from cm3.generate import CM3Leon
from cm3.model import bundle as bundles
from cm3.model.attention import Causal
from cm3.tasks import find_task

IDS, V = tiny_chameleon.LUMINA, tiny_chameleon.LUMINA.vocab
ON, WORDS = Gap("interleaved"), Gap("text")
NAMES: dict[str, int] = json.loads(tiny_chameleon.LUMINA_FILE)["model"]["vocab"]
TURN, ROW, SIDE = (NAMES[name] for name in ("<reserved08706>", "<reserved08799>", "<reserved08801>"))
BEGIN = [NAMES["<racm3:break>"], SIDE, SIDE]
ORDER = "Generate an image of 32x32 according to the following prompt:\n"


@pytest.fixture(scope="module")
def model() -> CM3Leon:
    return CM3Leon(tiny_chameleon.lumina())


@pytest.fixture(scope="module")
def drawing() -> CM3Leon:
    """One that often begins a picture, and does not end soon."""
    made = tiny_chameleon.lumina(context=256)
    with torch.no_grad():
        assert made.decoder.output is not None
        made.decoder.output.weight[V.brk] *= 8
    return CM3Leon(made)


def words(model: CM3Leon, text: str) -> list[int]:
    return [int(IDS.to_file[V.text_start + i]) for i in model.codec.text.encode(text)]


def rows(model: CM3Leon, picture: Any) -> list[int]:
    """A picture's codes and marks."""
    (grid,) = model.codec.image.encode([picture])
    return [id for row in grid.tolist() for id in (*(NAMES[spelled(code)] for code in row), ROW)]


def block(model: CM3Leon, picture: Any) -> list[int]:
    return [*BEGIN, *rows(model, picture), NAMES["<eoss>"]]


def theirs(ids: Any) -> list[int]:
    """Ids of ours as the file has them."""
    return IDS.to_file[np.asarray(ids)].tolist()


def test_a_document_has_the_marks_and_comes_back(model: CM3Leon) -> None:
    document = Document.of("a red circle", PICTURE, noise(1), " and more")
    tokens = model.codec.encode(document)
    assert theirs(tokens.ids) == [
        NAMES["<s>"], *words(model, "a red circle"), *block(model, PICTURE), *block(model, noise(1)),
        *words(model, " and more"), NAMES["</s>"],
    ]  # fmt: skip
    assert tokens.cells[V.is_image(tokens.ids)].tolist() == [*range(1, 17)] * 2
    assert not tokens.cells[~V.is_image(tokens.ids)].any()
    back = model.codec.decode(tokens)
    assert [type(p) for p in back.parts] == [Text, Image, Image, Text] and back.text == document.text
    assert [rows(model, p.pixels) for p in back.images] == [rows(model, PICTURE), rows(model, noise(1))]


def test_what_is_no_picture_is_refused(model: CM3Leon) -> None:
    tokens = model.codec.encode(Document.of(PICTURE)).ids.tolist()
    height, row, code = 2, 8, 4
    for at, id, place in (
        (height, V.marks.row, 1), (row, tokens[4], 7), (code, tokens[row], 3), (code, V.text_start, 3),
    ):  # fmt: skip
        wrong = [*tokens[:at], id, *tokens[at + 1 :]]
        with pytest.raises(DataError, match=f"position {place}: .* 16 codes below 64, with the marks of its size and"):
            model.codec.decode(wrong)
    for at in (height, row):  # one that is missing
        with pytest.raises(DataError, match="with the marks of its size and rows"):
            model.codec.decode(tokens[:at] + tokens[at + 1 :])
    for end in range(2, 23):
        with pytest.raises(DataError, match="<break> begins a picture, of 16 codes|<eoss> ends a picture"):
            model.codec.decode([*tokens[:end], V.eos])


def test_prompts_have_its_turns_and_its_order(model: CM3Leon) -> None:
    def asked(*parts: Any) -> list[int]:
        return theirs(model.codec.encode(Document.of(*parts)).ids)

    first = NAMES["<s>"]
    told = [first, *words(model, ORDER + "a circle"), TURN, *BEGIN]
    assert asked("a circle", Gap("image")) == told == asked(ORDER + "a circle", Gap("image"))
    assert asked("a circle", WORDS) == asked("a circle", ON) == [first, *words(model, "a circle"), TURN]
    assert asked(PICTURE, "at night", Gap("image")) == [
        first, *block(model, PICTURE), *words(model, "at night"), TURN, *BEGIN,
    ]  # fmt: skip
    assert asked(PICTURE, WORDS) == [first, *block(model, PICTURE), TURN]
    assert asked(Gap("image")) == [first, TURN, *BEGIN]


def naive(model: CM3Leon, prompt: list[int], other: list[int] | None, scale: float) -> list[int]:
    """Draw a picture greedily, reading all anew for each code: u + g (c - u) over the codes of the file."""
    codes, drawn = [NAMES[spelled(code)] for code in range(64)], list[int]()

    def logits(ids: list[int]) -> torch.Tensor:
        ours = torch.from_numpy(IDS.to_ours[ids])[None]
        found = model.decoder(ours, torch.arange(len(ids))[None], Causal())[0, -1]
        return found[torch.from_numpy(IDS.to_ours)]

    for _ in range(4):
        for _ in range(4):
            c = logits(prompt + drawn)
            scores = c if other is None else (u := logits(other + drawn)) + scale * (c - u)
            drawn.append(codes[int(scores[codes].argmax())])
        drawn.append(ROW)
    return drawn


@torch.no_grad()
@pytest.mark.parametrize("parallel", [0, 3])
def test_a_picture_is_what_a_loop_draws(model: CM3Leon, parallel: int) -> None:
    engine = CM3Leon(tiny_chameleon.lumina(), parallel=parallel)
    made = engine.generate("a red circle", temperature=0.0, guidance=3.0)
    prompt = [NAMES["<s>"], *words(model, ORDER + "a red circle"), TURN, *BEGIN]
    assert rows(model, made.image) == naive(model, prompt, BEGIN, 3.0)
    assert made.document.parts[0] == Text("a red circle") and len(made.filled[0]) == 1
    given = engine.generate([PICTURE, "at night"], temperature=0.0, guidance=1.0)
    prompt = [NAMES["<s>"], *block(model, PICTURE), *words(model, "at night"), TURN, *BEGIN]
    assert rows(model, given.image) == naive(model, prompt, None, 1.0)


def test_streams_of_a_picture_and_of_an_interleaved_answer(model: CM3Leon) -> None:
    def streams(*prompt: Any, **settings: Any) -> list[list[int]]:
        ((request,),) = [p.requests for p in model.prepare([list(prompt)], seeds=[0], **settings)]
        return [theirs(stream.ids) for stream in request.streams]

    full, away, pictures = streams(PICTURE, "at night", guidance=3.0, image_guidance=1.2)
    assert away == BEGIN and pictures == [NAMES["<s>"], *block(model, PICTURE), *BEGIN]
    assert full[-4:] == [TURN, *BEGIN]
    assert streams("a", ON, guidance=3.0)[1] == BEGIN[:1]
    read = [Document.of("a blue star", PICTURE)]
    full, away = streams("a", guidance=3.0, documents=[read], unconditional="dropped")
    before = [*words(model, "a blue star"), *block(model, PICTURE)]
    assert full == [NAMES["<s>"], *before, *words(model, ORDER + "a"), TURN, *BEGIN] and away == BEGIN
    with pytest.raises(RequestError, match="unconditional='kept': this model is guided from a picture that has"):
        streams("a", guidance=3.0, documents=[read], unconditional="kept")


def test_words_of_a_picture_are_asked_behind_it(model: CM3Leon) -> None:
    made = model.describe(PICTURE, max_tokens=6, temperature=0.0)
    assert isinstance(made.text, str)
    prepared = model.prepare_task(find_task("vqa2"), [{"image": PICTURE, "question": "what is it?"}], seeds=[0])
    ids = theirs(prepared[0].requests[0].streams[0].ids)
    assert ids[-1] == TURN and ids.count(ROW) == 4
    edit = model.edit(PICTURE, "paint it", guidance=2.0, image_guidance=1.5)
    assert edit.image.size == (32, 32)


@pytest.mark.parametrize(
    "prompt", [["draw", ON], [PICTURE, "more", ON], ["a circle"]], ids=["words", "both", "picture"]
)
def test_what_comes_as_a_stream_is_the_same(drawing: CM3Leon, prompt: Any) -> None:
    given, drawn = len(prompt) - (ON in prompt), 0
    for seed in range(8):
        settings: dict[str, Any] = {"max_tokens": 12, "pictures": 2, "guidance": 3.0, "seed": seed}
        made = drawing.generate(prompt, **settings)
        *chunks, last = drawing.stream(prompt, **settings)
        assert last.generation is not None and last.generation.document == made.document
        for at, part in enumerate(made.document.parts[given:], given):
            own = [chunk for chunk in chunks if chunk.part == at]
            if isinstance(part, Text):
                assert "".join(chunk.text for chunk in own) == part.text
                continue
            drawn += 1
            assert [chunk.rows for chunk in own] == [1, 2, 3, 4]
            assert own[-1].image is not None and own[-1].image.tobytes() == part.pixels.tobytes()
            assert own[0].image is not None and own[0].image.size == (32, 8)
        if drawn:
            return
    raise AssertionError("none was drawn")


def test_many_at_once_are_those_alone(drawing: CM3Leon) -> None:
    prompts: list[Any] = ["a", ["b", ON], PICTURE, ["c", WORDS], [PICTURE, "d", ON]]
    settings: dict[str, Any] = {"max_tokens": 8, "pictures": 2, "guidance": 2.0}
    together = drawing.generate_many(prompts, seeds=list(range(5)), **settings)
    for seed, (prompt, made) in enumerate(zip(prompts, together, strict=True)):
        alone = drawing.generate(prompt, seed=seed, **settings).document
        assert [type(part) for part in alone.parts] == [type(part) for part in made.document.parts]
        assert alone.text == made.document.text
        for one, other in zip(alone.images, made.document.images, strict=True):
            assert rows(drawing, one.pixels) == rows(drawing, other.pixels)
    best = drawing.generate(["b"], candidates=3, **settings)
    assert len(best.documents) == 1 and best.image.size == (32, 32)


def test_the_context_bounds_an_answer_with_its_marks(model: CM3Leon) -> None:
    ((asked,),) = [p.requests for p in model.prepare([["a", ON]], seeds=[0], max_tokens=1000, pictures=1000)]
    left = model.decoder.config.context - asked.streams[0].length
    (plan,) = asked.plan
    assert isinstance(plan, Interleaved) and plan.pictures == 1 and size(plan) == left + 1
    ((asked,),) = [p.requests for p in model.prepare([["a", ON]], seeds=[0], max_tokens=9, pictures=1000)]
    (plan,) = asked.plan
    assert isinstance(plan, Interleaved) and plan.pictures == (left - 9) // 24, "20 codes and marks, and 4 around them"
    whole = model.codec.encode(Document.of("a", Gap("image"))).length + 20
    assert CM3Leon(tiny_chameleon.lumina(context=whole)).generate("a").image.size == (32, 32)
    with pytest.raises(RequestError, match=f"prompt: takes {whole} tokens with what is to be written"):
        CM3Leon(tiny_chameleon.lumina(context=whole - 1)).generate("a")


def test_a_bundle_keeps_its_marks_and_others_are_refused(tmp_path: Path) -> None:
    made = tiny_chameleon.lumina()
    bundles.save(made, tmp_path / "b", torch.float32)
    loaded = CM3Leon.load(tmp_path / "b")
    assert loaded.vocab == V and loaded.codec.format == "lumina"
    assert loaded.generate("a").image.size == (32, 32)
    other = tiny_chameleon.lumina()
    other.vocab = replace(V, marks=replace(V.marks, height=V.marks.height + 1, width=V.marks.height + 1))
    with pytest.raises(CheckpointError, match=r"vocab.marks=.*: those of pictures of 32 pixels are"):
        CM3Leon(other)
    for change in ({"about": {"prompt_format": "chameleon"}}, {"vocab": replace(V, marks=None)}):
        other = tiny_chameleon.lumina()
        for name, value in change.items():
            setattr(other, name, value)
        with pytest.raises(CheckpointError, match="'lumina' is the format where vocab.marks has those of pictures"):
            CM3Leon(other)
    other = tiny_chameleon.lumina()
    other.about = {}
    assert CM3Leon(other).codec.format == "lumina"


def test_the_size_of_the_tiny_model_is_one_that_has_a_mark() -> None:
    assert tiny_model.SIZE == 32 and NAMES["<reserved08801>"] == int(IDS.to_file[V.marks.height])
