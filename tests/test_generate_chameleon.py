"""A model of Chameleon's family: its documents and prompts, and words and pictures in one answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_chameleon
import tiny_model
import torch
from test_generate import PICTURE, noise
from tiny_chameleon import IDS

from cm3.document import Document, Gap, Image, Text
from cm3.errors import CheckpointError, DataError, RequestError
from cm3.generate import CM3Leon
from cm3.model import bundle as bundles
from cm3.model.attention import Causal
from cm3.sequence.turns import TURNS
from cm3.tasks import find_task

V = IDS.vocab
ON, WORDS, WHOLE = Gap("interleaved"), Gap("text"), Gap("image")


@pytest.fixture(scope="module")
def model() -> CM3Leon:
    return CM3Leon(tiny_chameleon.bundle())


@pytest.fixture(scope="module")
def plain() -> CM3Leon:
    return CM3Leon(tiny_chameleon.bundle("plain"))


@pytest.fixture(scope="module")
def drawing() -> CM3Leon:
    """One that often begins a picture, and does not end soon."""
    made = tiny_chameleon.bundle("anole")
    with torch.no_grad():
        assert made.decoder.output is not None
        made.decoder.output.weight[V.brk] *= 8
    return CM3Leon(made)


def words(model: CM3Leon, text: str) -> list[int]:
    return [V.text_start + i for i in model.codec.text.encode(text)]


def codes(model: CM3Leon, picture: Any) -> list[int]:
    return (model.codec.image.encode([picture])[0].ravel() + V.image_start).tolist()


def test_a_document_is_laid_out_and_comes_back(model: CM3Leon) -> None:
    document = Document.of("a red circle", PICTURE, noise(1), " and more")
    tokens = model.codec.encode(document)
    picture, other = codes(model, PICTURE), codes(model, noise(1))
    assert tokens.ids.tolist() == [
        V.bos, *words(model, "a red circle"), V.brk, *picture, V.eoss, V.brk, *other, V.eoss,
        *words(model, " and more"), V.eos,
    ]  # fmt: skip
    assert tokens.cells[tokens.cells > 0].tolist() == [*range(1, 17)] * 2
    back = model.codec.decode(tokens)
    assert [type(p) for p in back.parts] == [Text, Image, Image, Text] and back.text == document.text
    assert [codes(model, p.pixels) for p in back.images] == [picture, other]
    assert model.codec.encode(back).ids.tolist() == tokens.ids.tolist()
    assert model.codec.decode(model.codec.encode(Document(()))).parts == ()


def test_a_turn_ends_before_each_of_several(model: CM3Leon, plain: CM3Leon) -> None:
    """Words that stand side by side in one turn are one text, and of two turns two."""
    meta = {TURNS: (2, 4)}
    document = Document((Text("a red "), Text("circle"), Text("here"), Image(PICTURE), Text("blue"), WORDS), meta=meta)
    assert model.codec.encode(document).ids.tolist() == [
        V.bos, *words(model, "a red circle"), V.turn, *words(model, "here"), V.brk, *codes(model, PICTURE), V.eoss,
        V.turn, *words(model, "blue"), V.turn,
    ]  # fmt: skip
    made = model.generate(document, seed=1, max_tokens=4)
    assert made.document.parts[:-1] == document.parts[:-1] and made.document.parts[-1] == made.filled[0][0]
    with pytest.raises(RequestError, match="document: has several turns, and this model's prompts have one"):
        plain.generate(document)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids[1:], "position 0: a document starts with <s>"),
        (lambda ids: ids[:-1], "a document ends with </s>"),
        (lambda ids: [i for i in ids if i != V.eoss], "<eoss> ends a picture, after 16 codes"),
        (lambda ids: [i for i in ids if i != ids[5]], "<break> begins a picture, of 16 codes below 64"),
        (lambda ids: [*ids[:1], V.turn, *ids[1:]], "is no text id of this tokenizer"),
        (lambda ids: [], "a document starts with <s>"),
    ],
)
def test_what_is_no_document_is_refused(model: CM3Leon, change: Any, message: str) -> None:
    ids = [V.bos, V.brk, *[V.image_start + i for i in range(16)], V.eoss, V.text_start, V.eos]
    assert len(model.codec.decode(ids).parts) == 2
    with pytest.raises(DataError, match=message):
        model.codec.decode(change(ids))


@pytest.mark.parametrize(
    ("name", "turns"),
    [("chameleon", (True, True, True)), ("anole", (False, True, False)), ("plain", (False,) * 3), (None, (True,) * 3)],
)
def test_turns_end_where_the_format_says(name: str | None, turns: tuple[bool, ...]) -> None:
    codec = CM3Leon(tiny_chameleon.bundle(name)).codec
    for gap, turn in zip((WORDS, WHOLE, ON), turns, strict=True):
        ids = codec.encode(Document.of("a circle", gap)).ids.tolist()
        asked = [V.bos, *[V.text_start + i for i in codec.text.encode("a circle")]]
        assert ids == asked + [V.turn] * turn + [V.brk] * (gap == WHOLE)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(CheckpointError, match="about.prompt_format='anolle': must be one of .* Did you mean 'anole'"):
        CM3Leon(tiny_chameleon.bundle("anolle"))


@pytest.mark.parametrize(
    "prompt",
    [
        ["a ", WORDS, " circle"],
        [WORDS, PICTURE],
        ["a", Image(PICTURE).with_gap((0, 0, 9, 9))],
        ["a", WHOLE, "b", WORDS],
        [ON, "a"],
    ],
    ids=["middle", "before", "region", "two", "interleaved"],
)
def test_infilling_is_refused_with_the_reason(model: CM3Leon, prompt: Any) -> None:
    with pytest.raises(RequestError, match="this model has no mask tokens and was not trained to fill holes"):
        model.generate(prompt)


def loop(
    model: CM3Leon, prompt: list[int], allowed: Sequence[int], number: int, other: list[int] | None, g: float
) -> list[int]:
    """Draw greedily, reading everything anew: u + g (c - u) over the allowed ids."""
    drawn: list[int] = []
    for _ in range(number):
        c, u = (
            model.decoder(torch.tensor([p + drawn]), torch.arange(len(p + drawn))[None], Causal())[0, -1]
            for p in (prompt, prompt if other is None else other)
        )
        drawn.append(allowed[int((u + g * (c - u))[list(allowed)].argmax())])
    return drawn


@torch.no_grad()
def test_thinking_first_is_refused_with_the_reason(drawing: CM3Leon) -> None:
    with pytest.raises(RequestError, match="think: is for models that fill holes, and this one has no masks; leave"):
        drawing.generate("a fox", think=True)


def test_a_picture_of_words_is_what_a_loop_draws(model: CM3Leon) -> None:
    made = model.generate("a red circle", temperature=0.0, guidance=3.0)
    prompt = [V.bos, *words(model, "a red circle"), V.turn, V.brk]
    expected = loop(model, prompt, range(V.image_start, V.size), 16, [V.bos, V.brk], 3.0)
    assert codes(model, made.image) == expected
    assert made.document.parts[0] == Text("a red circle") and len(made.filled[0]) == 1


@torch.no_grad()
def test_a_picture_of_a_picture_has_three_streams(model: CM3Leon) -> None:
    """Image in, image out; the third stream is the picture without the words."""
    made = model.generate([PICTURE, "at night"], temperature=0.0, guidance=3.0, image_guidance=1.2)
    block = [V.brk, *codes(model, PICTURE), V.eoss]
    prompts = [V.bos, *block, *words(model, "at night"), V.turn, V.brk], [V.bos, V.brk], [V.bos, *block, V.brk]
    drawn: list[int] = []
    for _ in range(16):
        c, u, i = (
            model.decoder(torch.tensor([p + drawn]), torch.arange(len(p + drawn))[None], Causal())[0, -1]
            for p in prompts
        )
        scores = u + 1.2 * (i - u) + 3.0 * (c - i)
        drawn.append(V.image_start + int(scores[V.image_start :].argmax()))
    assert codes(model, made.image) == drawn and [type(p) for p in made.document.parts] == [Image, Text, Image]


def laid_out(prepared: Any) -> list[list[int]]:
    """The streams of the one request."""
    ((request,),) = [one.requests for one in prepared]
    return [stream.ids.tolist() for stream in request.streams]


def test_documents_stand_before_a_prompt(drawing: CM3Leon) -> None:
    """Behind <s>, without ends of their own and with nothing between them; in the other stream too, or not."""
    read = [Document.of("a blue star", PICTURE), Document.of(noise(2), "more")]
    block, other = ([V.brk, *codes(drawing, picture), V.eoss] for picture in (PICTURE, noise(2)))
    before = [*words(drawing, "a blue star"), *block, *other, *words(drawing, "more")]
    asked = [*words(drawing, "a circle"), V.turn, V.brk]
    for treatment, away in (("kept", before), ("dropped", [])):
        given: dict[str, Any] = {"documents": [read], "guidance": 3.0, "unconditional": treatment}
        streams = laid_out(drawing.prepare(["a circle"], seeds=[0], **given))
        assert streams == [[V.bos, *before, *asked], [V.bos, *away, V.brk]]
    made = drawing.generate("a circle", documents=read, guidance=3.0)
    assert [one.document for one in made.retrieved] == read and len(made.document.images) == 1
    # An interleaved answer leaves them room, and has fewer pictures for it, unless it is told how many.
    on = drawing.generate(["a circle", ON], documents=read[:1], guidance=2.0, max_tokens=100)
    assert [one.document for one in on.retrieved] == read[:1]
    with pytest.raises(RequestError, match="of an interleaved answer pictures too"):
        drawing.generate(["a circle", ON], documents=read[:1], pictures=9)


def test_candidates_that_are_recommended_for_pictures_are_not_for_interleaved_answers() -> None:
    made = tiny_chameleon.bundle()
    made.sampling = {"image": {"candidates": 4}}
    model = CM3Leon(made)
    for prompt, given, number in (("a", {}, 4), (["a", ON], {}, 1), (["a", ON], {"candidates": 2}, 2)):
        options: dict[str, Any] = {"max_tokens": 4, "pictures": 1, **given}
        (prepared,) = model.prepare([prompt], seeds=[0], **options)
        assert len(prepared.requests) == number


def test_edits_and_control_images_are_three_streams(model: CM3Leon) -> None:
    """A picture is asked for at the end, guided from the pictures alone and from nothing."""
    block = [V.brk, *codes(model, PICTURE), V.eoss]
    for task, request in (
        ("edit", {"image1": PICTURE, "instruction": "paint it"}),
        ("canny", {"edge": PICTURE, "caption": "a red circle"}),
    ):
        prepared = model.prepare_task(find_task(task), [request], seeds=[0], guidance=3.0, image_guidance=1.2)
        full, away, pictures = laid_out(prepared)
        assert away == [V.bos, V.brk] and pictures == [V.bos, *block, V.brk]
        assert full[0] == V.bos and full[-2:] == [V.turn, V.brk]
        at = full.index(V.brk)
        assert full[at : at + len(block)] == block and sum(V.text_start <= i < V.image_start for i in full) > 4
    assert model.edit(PICTURE, "paint it", guidance=3.0, image_guidance=1.2).image.size == (32, 32)


@torch.no_grad()
def test_words_of_a_picture_are_what_a_loop_writes(model: CM3Leon) -> None:
    made = model.generate(PICTURE, temperature=0.0, max_tokens=9)
    prompt, written = [V.bos, V.brk, *codes(model, PICTURE), V.eoss, V.turn], list[int]()
    text, stop = range(V.text_start, V.image_start), [V.eos, V.brk, V.turn]
    while len(written) < 9:
        (drawn,) = loop(model, prompt + written, [*text, *(stop if written else [])], 1, None, 1.0)
        if drawn in stop:
            break
        written.append(drawn)
    assert made.document.parts[1:] == made.filled[0]
    assert made.filled[0] == (Text(model.codec.text.decode([i - V.text_start for i in written])),)


def test_words_that_go_on_are_one_part_and_an_answer_is_its_own(model: CM3Leon, plain: CM3Leon) -> None:
    prompt = ["a small ", WORDS]
    assert len(model.generate(prompt, max_tokens=4).document.parts) == 2
    (part,) = plain.generate(prompt, max_tokens=4).document.parts
    assert isinstance(part, Text) and part.text.startswith("a small")


@pytest.mark.parametrize("prompt", [["draw", ON], [PICTURE, "more", ON], [ON]], ids=["words", "picture", "nothing"])
def test_words_and_pictures_come_in_order_and_as_a_stream(drawing: CM3Leon, prompt: Any) -> None:
    found = 0
    for seed in range(6):
        settings: dict[str, Any] = {"max_tokens": 12, "pictures": 3, "guidance": 3.0, "image_guidance": 1.2}
        made = drawing.generate(prompt, seed=seed, **settings)
        given = len(prompt) - 1
        assert made.document.parts[given:] == made.filled[0]
        kinds = [type(part) for part in made.filled[0]]
        assert kinds.count(Image) <= 3 and all((a, b) != (Text, Text) for a, b in zip(kinds, kinds[1:], strict=False))
        found += kinds.count(Image)
        *chunks, last = drawing.stream(prompt, seed=seed, **settings)
        assert last.generation is not None and last.generation.document == made.document
        for at, part in enumerate(made.document.parts[given:], given):
            own = [chunk for chunk in chunks if chunk.part == at]
            if isinstance(part, Text):
                assert "".join(chunk.text for chunk in own) == part.text
            else:
                assert [chunk.rows for chunk in own] == [1, 2, 3, 4]
                assert own[-1].image is not None
                np.testing.assert_allclose(np.asarray(own[-1].image, int), np.asarray(part.pixels, int), atol=1)
                assert own[0].image is not None and own[0].image.size == (32, 8)
        if found > 4:
            return
    assert found


def assert_alike(one: Document, other: Document) -> None:
    """Pictures may differ by rounding: batches of other sizes add in another order."""
    assert [type(part) for part in one.parts] == [type(part) for part in other.parts]
    for a, b in zip(one.parts, other.parts, strict=True):
        if isinstance(a, Image) and isinstance(b, Image):
            apart = np.asarray(a.pixels).astype(int) - np.asarray(b.pixels).astype(int)
            assert np.abs(apart).max() <= 1
        else:
            assert a == b


def test_many_at_once_are_those_alone(drawing: CM3Leon) -> None:
    prompts: list[Any] = ["a", ["b", ON], PICTURE, ["c", WORDS], [PICTURE, "d", ON]]
    settings: dict[str, Any] = {"max_tokens": 8, "pictures": 2, "guidance": 2.0}
    together = drawing.generate_many(prompts, seeds=list(range(5)), **settings)
    for seed, (prompt, made) in enumerate(zip(prompts, together, strict=True)):
        assert_alike(drawing.generate(prompt, seed=seed, **settings).document, made.document)
    best = drawing.generate(["b", ON], candidates=3, **settings)
    assert len(best.documents) == 1 and best.filled[0]


def test_the_context_bounds_what_is_written(drawing: CM3Leon) -> None:
    made = drawing.generate(["a", ON], max_tokens=1000, pictures=1000)
    assert drawing.codec.encode(made.document).length <= drawing.decoder.config.context + 2
    with pytest.raises(RequestError, match="prompt: takes .* tokens with what is to be written"):
        drawing.generate(["a circle " * 200, ON])
    with pytest.raises(RequestError, match="pictures=0: must be an integer, 1 to 1000000"):
        drawing.generate(["a", ON], pictures=0)


@torch.no_grad()
def test_rows_of_the_file_in_our_order_give_the_same_logits(model: CM3Leon) -> None:
    """The file's ids through the file's rows, ours through ours: a code that was used as an id would show."""
    theirs = tiny_chameleon.bundle().decoder
    to_ours = torch.from_numpy(IDS.to_ours)
    state = theirs.state_dict()
    rows = [name for name, w in state.items() if w.shape[0] == V.size]
    assert len(rows) == 2  # embedding and head
    theirs.load_state_dict(state | {name: state[name][to_ours] for name in rows})
    document = model.codec.encode(Document.of("a red circle", PICTURE, "and"))
    ours = torch.from_numpy(document.ids.astype(np.int64))[None]
    places = torch.arange(ours.shape[1])[None]
    file_ids = torch.from_numpy(IDS.to_file)[ours]
    raw = torch.where(ours >= V.image_start, ours - V.image_start, file_ids)
    found = theirs(file_ids, places, Causal())
    torch.testing.assert_close(found[..., torch.from_numpy(IDS.to_file)], model.decoder(ours, places, Causal()))
    assert (theirs(raw, places, Causal()) - found).abs().max() > 0.1


def test_a_bundle_is_saved_and_loaded(tmp_path: Path, model: CM3Leon) -> None:
    bundles.save(tiny_chameleon.bundle(), tmp_path / "b", torch.float32)
    assert (tmp_path / "b" / "tokenizer.json").read_bytes() == tiny_chameleon.FILE
    loaded = CM3Leon.load(tmp_path / "b")
    assert loaded.vocab == V and loaded.codec.format == "chameleon"
    assert loaded.generate("a", max_tokens=4).document.parts[0] == Text("a")
    other = tiny_chameleon.bundle()
    other.text_tokenizer = tiny_model.tokenizer_path()
    with pytest.raises(Exception, match=r"vocab.size=\d+, and tokenizer.json has 320 entries"):
        bundles.save(other, tmp_path / "c")


def test_interleaved_in_the_other_grammar() -> None:
    """A model of ours: words go on, pictures come where `<break>` is written, and it is one of its documents."""
    ours = CM3Leon(tiny_model.bundle())
    found = []
    for seed in range(4):
        made = ours.generate(["a cat ", ON], seed=seed, max_tokens=12, pictures=2, guidance=2.0)
        assert made.document.parts[0] == Text("a cat ")
        back = ours.codec.decode(ours.codec.encode(made.document))
        assert back.text == made.document.text and len(back.images) == len(made.document.images)
        *_, last = ours.stream(["a cat ", ON], seed=seed, max_tokens=12, pictures=2, guidance=2.0)
        assert last.generation is not None and last.generation.document == made.document
        found += made.filled[0]
    assert any(isinstance(part, Text) for part in found)
    for prompt in (["a ", WORDS, " b", ON], [ON, "a"]):
        with pytest.raises(RequestError, match="an interleaved gap stands alone at its end"):
            ours.generate(prompt)
