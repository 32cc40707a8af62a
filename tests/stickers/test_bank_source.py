"""Sheets after documents: what is shown stands at its offset, own documents are there, and nothing held out is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from tiny_model import codec

from cm3.errors import ConfigError, DataError
from cm3.sequence.before import AugmentLaw
from cm3.sequence.segments import segments
from cm3.stickers.artwork import KINDS, OTHERS, SIDE
from cm3.stickers.data.bank_source import BankLaw, BankSource, Example, alone, random_example
from cm3.stickers.data.sheet_source import SheetLaw, SheetSource
from cm3.stickers.drawing import BLOCK, CORNER, DRAWN, RIM
from cm3.stickers.phrases import SPELLINGS
from cm3.stickers.sentences import describe, parse
from cm3.stickers.shown import KEPT, NAMES, Shown, ShownLaw, name_of, random_shown
from cm3.stickers.world import GROUNDS, HELD_OUT, SIZES, random_sheet, split_of
from cm3.vocab import Tokens

ALWAYS = AugmentLaw((0.0, 0.4, 0.3, 0.3))


def examples(number: int, law: BankLaw | None = None, seed: int = 0) -> Iterator[tuple[int, Example]]:
    """(documents asked for, example), of 1 to 3 documents in turn."""
    for i in range(number):
        yield i % 3 + 1, random_example(np.random.default_rng([seed, i]), i % 3 + 1, law or BankLaw())


def same(a: Tokens, b: Tokens) -> bool:
    return np.array_equal(a.ids, b.ids) and np.array_equal(a.cells, b.cells)


def test_names_are_invented() -> None:
    """Each is another, in letters, and no word of the language, though some begin as held-out kinds do."""
    names = [name_of(i) for i in range(NAMES)]
    assert len(set(names)) == NAMES and all(name.isascii() and name.isalpha() and name.islower() for name in names)
    assert 4 <= min(map(len, names)) and max(map(len, names)) <= 11
    words = " ".join([*KINDS, *GROUNDS, *SIZES, *SPELLINGS, "ground", "left", "right", "middle"]).split()
    assert not set(names) & set(words)
    begin = {name[:2] for name in names}
    assert all(kind[:2] in begin for kind in HELD_OUT), "letters of the kinds that are to be told apart are learnt"
    for number in (-1, NAMES):
        with pytest.raises(ConfigError, match=f"name number={number}: must be 0 to {NAMES - 1}"):
            name_of(number)


def test_things_are_shown_as_the_law_says() -> None:
    rng = np.random.default_rng(0)
    things = [random_shown(rng, ShownLaw(kinds=0.4, unknown=0.5, shuffled=0.25)) for _ in range(1200)]
    of_kinds = [t for t in things if t.kind]
    assert 0.33 < len(of_kinds) / len(things) < 0.47
    known = [t for t in of_kinds if t.name == t.kind]
    assert 0.38 < len(known) / len(of_kinds) < 0.62 and all(t.tiles is None for t in known)
    assert all(t.name not in KINDS for t in things if t not in known)
    assert not {t.kind for t in of_kinds} & set(HELD_OUT)
    numbers = [t.of for t in things if isinstance(t.of, int)]
    assert max(numbers) < OTHERS - KEPT and len(set(numbers)) > 400
    by_name = Counter(t.name for t in things if t not in known)
    assert len(by_name) > 0.9 * sum(by_name.values()), "a name hardly comes twice"
    assert all(OTHERS - KEPT <= int(random_shown(rng, kept=True).of) < OTHERS for _ in range(50))


def test_a_shuffled_drawing_has_the_same_tiles() -> None:
    plain, shuffled = Shown("x", 7), Shown("x", 7, tiles=3)
    assert not np.array_equal(plain.drawing, shuffled.drawing)
    assert np.array_equal(shuffled.drawing, Shown("y", 7, tiles=3).drawing)

    def tiles(pixels: np.ndarray) -> Counter[bytes]:
        starts = range(0, SIDE, 16)
        return Counter(pixels[y : y + 16, x : x + 16].tobytes() for y in starts for x in starts)

    assert tiles(plain.drawing) == tiles(shuffled.drawing)


@pytest.mark.parametrize("name", ["kinds", "unknown", "shuffled"])
def test_shares_of_shown_things_are_shares(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"shown.{name}=1.5: is a share, must be in 0..1"):
        ShownLaw(**{name: 1.5})


@pytest.mark.parametrize("name", ["two", "same_ground", "same_place", "other_size"])
def test_shares_of_the_law_are_shares(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"law.{name}=-0.1: is a share, must be in 0..1"):
        BankLaw(**{name: -0.1})


@pytest.mark.parametrize("name", ["in_order", "places", "relations", "captions_only"])
def test_shares_of_sheets_are_shares(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"law.{name}=1.5: is a share, must be in 0..1"):
        SheetLaw(**{name: 1.5})


@pytest.mark.parametrize("number", [(), (1.0,) * 5, (0.0, 0.0), (1.0, -0.1), (np.nan, 1.0), (np.inf,)])
def test_numbers_of_stickers_have_shares(number: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="must be shares of 1 to 4 stickers, of 0 or more, not all 0"):
        SheetLaw(number=number)


def test_other_names_stand_where_kinds_would() -> None:
    """The wording depends on nothing else: the kind's own name in its place gives the plain caption."""
    for i in range(60):
        sheet = random_sheet(np.random.default_rng(i), twice=0.3)
        kind = sheet.stickers[0].kind
        said = describe(sheet, np.random.default_rng(i), names={kind: "blosk"})
        assert "blosk" in said and said.replace("blosk", kind) == describe(sheet, np.random.default_rng(i))


def test_the_prompt_names_what_its_documents_show() -> None:
    for number, example in examples(90):
        assert len(example.documents) == number and 1 <= len(example.own) == len(example.sheet.shown) <= 2
        sheet, rng = example.sheet.sheet, np.random.default_rng(0)
        said = example.sheet.say(rng, style="places")
        for (kind, thing), at in zip(example.sheet.shown.items(), example.own, strict=True):
            (sticker,) = (s for s in sheet.stickers if s.kind == kind)
            own = example.documents[at]
            (shown,) = own.sheet.stickers
            assert own.shown == {kind: thing} and (shown.place, shown.size) == ("middle", sticker.size)
            assert own.say(rng, style="alone").count(f"a {sticker.size} {thing.name}") == 1
            assert f"a {sticker.size} {thing.name} " in said
        others = [d for i, d in enumerate(example.documents) if i not in example.own]
        asked = {(s.size, example.sheet.shown[s.kind].name if s.kind in example.sheet.shown else s.kind)
                 for s in sheet.stickers}  # fmt: skip
        for document in others:
            (shown,) = document.sheet.stickers
            assert (shown.size, document.shown[shown.kind].name) not in asked


def test_pixels_stand_at_the_offset_of_their_place() -> None:
    """On the same ground the whole block is the document's, for every place and both sizes, shuffled or not."""
    met = set()
    for _, example in examples(120, BankLaw(same_ground=1.0, shown=ShownLaw(shuffled=0.5))):
        picture = np.asarray(example.sheet.draw(256))
        for kind, at in zip(example.sheet.shown, example.own, strict=True):
            (sticker,) = (s for s in example.sheet.sheet.stickers if s.kind == kind)
            shown = np.asarray(example.documents[at].draw(256))
            (x, y), (mx, my) = CORNER[sticker.place], CORNER["middle"]
            met.add((sticker.place, sticker.size))
            assert np.array_equal(picture[y : y + BLOCK, x : x + BLOCK], shown[my : my + BLOCK, mx : mx + BLOCK])
            edge = (BLOCK - DRAWN[sticker.size]) // 2 - RIM
            assert (picture[y : y + edge, x : x + BLOCK] == GROUNDS[example.sheet.sheet.ground]).all()
    assert len(met) == 10


def test_grounds_and_other_sizes_come_as_often_as_asked() -> None:
    made = [e for _, e in examples(300, BankLaw(same_ground=0.5, other_size=1.0))]
    grounds = [e.documents[i].sheet.ground == e.sheet.sheet.ground for e in made for i in e.own]
    assert 0.4 < np.mean(grounds) < 0.6
    for example in made:
        for i, document in enumerate(example.documents):
            (shown,) = document.sheet.stickers
            of_size = {s.kind: s.size for s in example.sheet.sheet.stickers}
            assert shown.kind in example.sheet.shown and (of_size[shown.kind] == shown.size) == (i in example.own)
    places = Counter(e.own[0] for e in made if len(e.documents) == 3)
    assert len(places) == 3 and min(places.values()) > 15, "order is by chance"


def test_own_documents_show_their_thing_in_its_place_as_often_as_asked() -> None:
    for share in (0.0, 0.5, 1.0):
        law, there, moved = BankLaw(same_place=share, other_size=0.0), 0, 0
        for number, example in examples(200, law):
            places = {s.kind: s.place for s in example.sheet.sheet.stickers}
            assert len(example.documents) == number
            for at in example.own:
                (sticker,) = example.documents[at].sheet.stickers
                assert sticker.place in ("middle", places[sticker.kind])
                if places[sticker.kind] != "middle":
                    there, moved = there + (sticker.place != "middle"), moved + (sticker.place == "middle")
        assert there + moved > 100 and abs(there / (there + moved) - share) < 0.15


def test_a_document_says_where_its_thing_is_unless_in_the_middle() -> None:
    source = BankSource(codec(), 0, law=BankLaw(documents=AugmentLaw((0.0, 1.0)), same_place=0.5))
    said = [str(source.documents(i)[0][0].parts[0].text) for i in range(60)]
    placed = ["top" in text or "bottom" in text for text in said]
    assert 10 < sum(placed) < 50 and not any("middle" in text for text in said)


def test_an_example_belongs_to_its_split() -> None:
    """What is seen does, kinds under invented names too; a stand-in for a drawing without a name is not seen."""
    law = BankLaw(shown=ShownLaw(kinds=1.0, unknown=0.7))
    for _, example in examples(150, law):
        assert split_of(example.sheet.sheet) == "train"
        assert all(thing.kind == kind for kind, thing in example.sheet.shown.items())
        assert not {s.kind for d in example.documents for s in d.sheet.stickers} & set(HELD_OUT)
    val = random_example(np.random.default_rng(0), 2, law, "val")
    assert split_of(val.sheet.sheet) == "val"
    assert all(OTHERS - KEPT <= int(t.of) < OTHERS for t in val.sheet.shown.values())


def test_an_example_is_a_function_of_its_number() -> None:
    a, b = BankSource(codec(), 5), BankSource(codec(), 5)
    for one, two in zip(a.sequences(range(12)), b.sequences(range(12)), strict=True):
        assert same(one, two)
    other = BankSource(codec(), 6).sequences(range(12))
    assert not any(same(one, two) for one, two in zip(a.sequences(range(12)), other, strict=True))


def test_documents_come_as_often_as_asked_and_are_laid_out_before_the_sheet() -> None:
    source = BankSource(codec(), 1, law=BankLaw(documents=AugmentLaw((0.25, 0.25, 0.25, 0.25))))
    numbers = Counter(len(source.documents(i)[0]) - 1 for i in range(400))
    assert set(numbers) == {0, 1, 2, 3} and min(numbers.values()) > 70
    plain = next(i for i in range(40) if not source.documents(i)[1])
    sheets = SheetSource(codec(), 1)
    assert source.documents(plain)[0][0].parts == sheets.document(plain).parts
    for i in range(12):
        documents, _ = source.documents(i)
        (tokens,) = source.sequences([i])
        assert int((tokens.ids == codec().vocab.eos).sum()) == 2
        parts = segments(tokens.ids, codec().vocab)
        assert len(parts) == sum(len(d.parts) for d in documents)
        assert int((tokens.cells == 1).sum()) == sum(len(d.images) for d in documents)
        assert documents[-1].id == str(i) and documents[-1].source == "stickers/train"


def test_documents_of_something_else_go_first_where_there_is_no_room() -> None:
    law = BankLaw(documents=AugmentLaw((0.0, 0.0, 0.0, 1.0)), two=0.0, sheets=SheetLaw(captions_only=0.0))
    (whole,) = BankSource(codec(), 2, law=law).sequences([0])
    documents, own = BankSource(codec(), 2, law=law).documents(0)
    lengths = [t.length for t in codec().encode_many(documents)]
    fits = lengths[-1] + lengths[own[0]] - 1
    (cut,) = BankSource(codec(), 2, law=law, length=fits).sequences([0])
    assert cut.length == fits < whole.length
    expected = codec().encode_many([documents[own[0]], documents[-1]])
    assert np.array_equal(cut.ids[1 : expected[0].length - 1], expected[0].ids[1:-1])
    assert np.array_equal(cut.ids[-expected[1].length + 1 :], expected[1].ids[1:])
    with pytest.raises(DataError, match=rf"law.documents: a sheet of {lengths[-1]} tokens and its 1 documents do not"):
        BankSource(codec(), 2, law=law, length=fits - 1).sequences([0])


def test_a_document_without_shown_things_is_an_ordinary_sheet() -> None:
    document = alone("panda", "large", "mint")
    said = document.say(np.random.default_rng(0), style="alone")
    assert parse(said).mentions[0].kind == "panda" and not document.shown
    assert document.draw(32).size == (32, 32)
