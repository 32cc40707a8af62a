"""Documents to tokens and back; holes are filled and nothing else moves."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3.document import Document, Gap, Image, Text
from cm3.errors import ConfigError, DataError, RequestError
from cm3.model.vqgan import VQGAN, small
from cm3.tokens.codec import Codec, Hole
from cm3.tokens.image import ImageTokenizer
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Tokens, Vocab

torch.manual_seed(0)
VOCAB = Vocab(text=400, image=2600, masks=6, reserved=2)
TEXT = TextTokenizer.train(["a small red circle left of a big blue square, and a green one"] * 4, 320)
CODEC = Codec(VOCAB, TEXT, ImageTokenizer(VQGAN(small(16, channels=8)), 64))
N = 16


def noise(width: int = 64, height: int = 64, seed: int = 0) -> PIL.Image.Image:
    """A reproducible RGB picture."""
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def words(text: str) -> list[int]:
    """Vocabulary ids of text."""
    return [VOCAB.text_start + i for i in TEXT.encode(text)]


def codes(n: int, seed: int = 0) -> list[int]:
    """Vocabulary ids of random image codes."""
    return (VOCAB.image_start + np.random.default_rng(seed).integers(0, 2560, n)).tolist()


def test_layout() -> None:
    picture, other = noise(seed=1), noise(80, 70, seed=2)
    tokens = CODEC.encode(Document.of("a red", " circle", "", picture, other, "a green one"))
    first, second = ((CODEC.image.encode([p])[0].ravel() + VOCAB.image_start).tolist() for p in (picture, other))
    b = [VOCAB.brk]
    assert tokens.ids.tolist() == [2, *words("a red circle"), *b, *first, *b, *second, *b, *words("a green one"), 2]
    cells = tokens.cells[VOCAB.is_image(tokens.ids)]
    assert cells.tolist() == [*range(1, N + 1)] * 2
    assert not tokens.cells[~VOCAB.is_image(tokens.ids)].any()
    assert tokens.ids.dtype == tokens.cells.dtype == np.int32


PARTS = st.lists(st.one_of(st.text(max_size=12), st.integers(0, 2)), max_size=5)


@given(PARTS)
@settings(max_examples=60, deadline=None)
def test_decode_inverts_encode(parts: list[str | int]) -> None:
    tokens = CODEC.encode(Document.of(*(p if isinstance(p, str) else noise(seed=p) for p in parts)))
    decoded = CODEC.decode(tokens)
    expected: list[str | int] = []
    for part in parts:
        if isinstance(part, str) and expected and isinstance(expected[-1], str):
            expected[-1] += part
        elif part != "":
            expected.append(part)
    assert [p.text if isinstance(p, Text) else None for p in decoded.parts] == [
        p if isinstance(p, str) else None for p in expected
    ]
    again = CODEC.encode(decoded)  # codes are equal, and so is everything else
    assert (again.ids == tokens.ids).all() and (again.cells == tokens.cells).all()
    assert CODEC.decode(tokens.ids).parts == CODEC.decode(tokens.ids.tolist()).parts == decoded.parts


def test_encode_many_is_encode_of_each() -> None:
    documents = [
        Document.of("a"),
        Document.of(noise(seed=3), "b", noise(seed=4)),
        Document(()),
        Document.of(noise(seed=5)),
    ]
    for many, document in zip(CODEC.encode_many(documents), documents, strict=True):
        one = CODEC.encode(document)
        assert (many.ids == one.ids).all() and (many.cells == one.cells).all()
    assert CODEC.encode_many([]) == []


def test_text_gap_takes_the_space_before_it() -> None:
    document = Document.of("a ", Gap(), " circle")
    prompt = CODEC.encode_prompt(document)
    assert prompt.tokens.ids.tolist() == [2, *words("a"), VOCAB.mask(0), *words(" circle"), 2]
    assert prompt.holes == (Hole("text", (), 0, 1),)
    assert (CODEC.encode(document).ids == prompt.tokens.ids).all()
    twice = Text("a ")  # one object, before a hole and at the end
    assert CODEC.encode(Document((twice, Gap(), twice))).ids.tolist() == [
        2,
        *words("a"),
        VOCAB.mask(0),
        *words("a "),
        2,
    ]
    # what training shows: the tokens of the whole text, cut at token borders
    assert CODEC.unmask(prompt, [words(" small")]).ids.tolist() == [2, *words("a small circle"), 2]


@pytest.mark.parametrize(
    "before, span, after, expected",
    [
        ("a ", " small", " circle", "a small circle"),
        ("a ", "small", " circle", "a small circle"),
        ("a", " small", " circle", "a small circle"),
        ("a ", " small ", " circle", "a small circle"),
        ("a ", "", " circle", "a circle"),
        ("a ", "", "circle", "a circle"),
        ("a ", ", small,", " circle", "a, small, circle"),
        ("a  ", " small", " circle", "a  small circle"),
        ("a\n", "small", "\ncircle", "a\nsmall\ncircle"),
        ("", "a", " circle", "a circle"),
        ("a ", " small", "", "a small"),
        ("a ", "", "", "a "),
        ("", "", "", ""),
    ],
)
def test_text_closes_around_a_gap(before: str, span: str, after: str, expected: str) -> None:
    document = Document.of(before, Gap(), after, id="x", source="y", k=1)
    filled = CODEC.fill(document, [[*words(span), VOCAB.eoss]])
    assert filled.parts == (Text(expected),)
    assert (filled.id, filled.source, filled.meta) == ("x", "y", {"k": 1})


def test_a_character_cut_by_a_hole_is_whole_again() -> None:
    ids = [VOCAB.text_start + i for i in TEXT.encode_bytes("\u4e2d".encode())]
    assert CODEC.fill(Document.of(Gap(), Gap()), [ids[:1], ids[1:]]).text == "\u4e2d"


def test_image_gap_is_one_mask_a_row_and_nothing_outside_moves() -> None:
    picture = noise(96, 64)  # the crop cuts 16 pixels on each side
    document = Document.of("a red ", Gap(), Image(picture, gap=(30, 20, 60, 40)), " one")
    prompt = CODEC.encode_prompt(document)
    # x 14..44 -> columns 0 to 2, y 20..40 -> rows 1 and 2
    assert prompt.holes == (Hole("text", (), 0, 1), Hole("image", (5, 6, 7), 1, 2), Hole("image", (9, 10, 11), 2, 2))
    old = (CODEC.image.encode([picture])[0].ravel() + VOCAB.image_start).tolist()
    new = codes(6)
    masked = [*old[:4], VOCAB.mask(1), old[7], VOCAB.mask(2), *old[11:]]
    tail = [VOCAB.brk, *words(" one"), 2]
    assert prompt.tokens.ids.tolist() == [2, *words("a red"), VOCAB.mask(0), VOCAB.brk, *masked, *tail]
    kept = prompt.tokens.cells[VOCAB.is_image(prompt.tokens.ids)].tolist()
    assert kept == [c for c in range(1, N + 1) if c not in (5, 6, 7, 9, 10, 11)]

    spans = [words(" circle"), new[:3], [*new[3:], VOCAB.eoss]]
    whole = CODEC.unmask(prompt, spans)
    merged = [*old[:4], *new[:3], old[7], *new[3:], *old[11:]]
    assert whole.ids.tolist() == [2, *words("a red circle"), VOCAB.brk, *merged, *tail]
    assert whole.cells[VOCAB.is_image(whole.ids)].tolist() == [*range(1, N + 1)]

    filled = CODEC.fill(document, spans, prompt)
    assert [p.text for p in filled.parts if isinstance(p, Text)] == ["a red circle", " one"]
    assert not filled.has_gap
    got, original = np.asarray(filled.images[0].pixels), np.asarray(CODEC.image.preprocess(picture))
    decoded = np.asarray(CODEC.decode(whole).images[0].pixels)
    inside = np.zeros((64, 64), bool)
    inside[16:48, 0:48] = True
    assert (got[~inside] == original[~inside]).all()
    assert (got[inside] == decoded[inside]).all() and (got[inside] != original[inside]).any()
    assert CODEC.fill(document, spans).parts == filled.parts
    assert picture.tobytes() == noise(96, 64).tobytes()


def test_whole_image_gap() -> None:
    document = Document.of("a circle", Gap("image"), noise(seed=7))
    prompt = CODEC.encode_prompt(document)
    assert prompt.holes == (Hole("image", tuple(range(1, N + 1)), 0, 1),)
    assert prompt.tokens.ids[len(words("a circle")) + 2] == VOCAB.mask(0)
    filled = CODEC.fill(document, [codes(N)])
    expected = np.asarray(codes(N)).reshape(1, 4, 4) - VOCAB.image_start
    assert filled.parts[1] == Image(CODEC.image.decode(expected)[0])
    assert filled.parts[2] is document.parts[2]
    assert CODEC.encode(filled).ids.tolist() == CODEC.unmask(prompt, [codes(N)]).ids.tolist()


@given(st.integers(0, 63), st.integers(0, 63), st.integers(1, 64), st.integers(1, 64))
@settings(max_examples=25, deadline=None)
def test_any_box(x: int, y: int, width: int, height: int) -> None:
    box = (x, y, min(64, x + width), min(64, y + height))
    document = Document.of(Image(noise(), gap=box))
    prompt = CODEC.encode_prompt(document)
    filled = CODEC.fill(document, [codes(len(h.cells), h.mask) for h in prompt.holes], prompt)
    changed = np.argwhere((np.asarray(filled.images[0].pixels) != np.asarray(noise())).any(-1))
    low, high = changed.min(0), changed.max(0)
    assert (low == [box[1] // 16 * 16, box[0] // 16 * 16]).all()
    assert (high // 16 == [(box[3] - 1) // 16, (box[2] - 1) // 16]).all()
    tokens = CODEC.unmask(prompt, [codes(len(h.cells), h.mask) for h in prompt.holes])
    outside = np.isin(tokens.cells, [c for h in prompt.holes for c in h.cells], invert=True)
    assert (tokens.ids[outside] == CODEC.encode(Document.of(noise())).ids[outside]).all()


def image_ids(n: int = N) -> list[int]:
    """Ids of one picture."""
    return codes(n, 5)


@pytest.mark.parametrize(
    "ids, message",
    [
        ([], "position 0: a document starts and ends with its own </s>"),
        ([2], "position 0: a document starts and ends"),
        ([*words("a"), 2], "position 0: a document starts"),
        ([2, *image_ids()], "position 16: a document starts and ends"),
        ([2, 2, 2], "position 1: </s> cannot stand inside"),
        ([2, VOCAB.mask(0), 2], "position 1: <mask:0> cannot stand inside a document; fill holes"),
        ([2, 10**6, 2], "position 1: id 1000000 cannot stand"),
        ([2, -5, 2], "position 1: id -5 cannot stand"),
        ([2, VOCAB.brk, *words("a"), 2], "position 1: nothing between two borders"),
        ([2, *words("a"), VOCAB.brk, 2], "nothing between two borders"),
        ([2, *words("a"), *image_ids(), 2], "position 2: text and image codes need a <break>"),
        ([2, *image_ids(15), 2], "position 1: image of 15 codes; one has 4 x 4 = 16"),
        ([2, *image_ids(32), 2], "position 1: image of 32 codes"),
        ([2, *image_ids(15), VOCAB.image_start + 2599, 2], "position 16: image code 2599, must be below 2560"),
        ([2, VOCAB.text_start + 399, 2], "position 1: id 913 is no text id of this tokenizer"),
    ],
)
def test_wrong_sequences(ids: list[int], message: str) -> None:
    message = message.replace("id 913", f"id {VOCAB.text_start + 399}")
    with pytest.raises(DataError) as caught:
        CODEC.decode(ids)
    assert message in str(caught.value)


def test_wrong_cells() -> None:
    ids = [2, *image_ids(), 2]
    with pytest.raises(DataError, match="position 3: cell 0, must be 3 here"):
        CODEC.decode(Tokens.of(ids, [0, 1, 2, 0, *range(4, 17), 0]))


def test_refusals() -> None:
    with pytest.raises(RequestError, match="more than 6 holes"):
        CODEC.encode(Document.of(*["a", Gap()] * 7))
    with pytest.raises(RequestError, match="outside the centred square"):
        CODEC.encode(Document.of(Image(noise(96, 64), gap=(0, 0, 10, 10))))
    with pytest.raises(DataError, match="lone surrogate"):
        CODEC.encode(Document.of("\ud800"))
    with pytest.raises(ConfigError, match="vocab.text=256: must be at least the text tokenizer's size"):
        Codec(Vocab(text=256, image=2560), TEXT)
    with pytest.raises(ConfigError, match="vocab.image=100: must be at least .* 2560 codes"):
        Codec(Vocab(text=400, image=100), TEXT, CODEC.image)
    blind = Codec(VOCAB, TEXT)
    assert blind.decode(blind.encode(Document.of("a red"))).text == "a red"
    for part in (noise(), Gap("image")):
        with pytest.raises(RequestError, match="no image tokenizer; give text only"):
            blind.encode(Document.of("a", part))
    with pytest.raises(DataError, match="image of 16 codes"):
        blind.decode([2, *image_ids(), 2])


def test_wrong_spans() -> None:
    document = Document.of("a", Gap(), Image(noise(), gap=(0, 0, 20, 5)))
    for spans, message in (
        ([words("b")], "got 1 for 2 holes"),
        ([codes(1), codes(2)], "span 0, position 0: id .* is no text id"),
        ([words("b"), codes(3)], "span 1: must be 2 image codes, got 3 ids"),
        ([words("b"), words("bb")], "span 1: must be 2 image codes"),
        ([words("b"), [VOCAB.image_start, VOCAB.image_start + 2560]], "span 1: must be 2 image codes"),
    ):
        with pytest.raises(DataError, match=message):
            CODEC.fill(document, spans)
