"""Every sentence is true of its sheet and of no other, and what is not a sentence is refused with its reason."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from cm3.errors import ConfigError, DataError
from cm3.stickers.artwork import KINDS
from cm3.stickers.sentences import STYLES, Mention, Statement, brief, describe, holds, loosely, parse, styles_of
from cm3.stickers.world import GROUNDS, PLACES, QUARTERS, SIZES, Sheet, Sticker, any_sheet, pick, random_sheet

SHEET = Sheet(
    "mint",
    (
        Sticker("top left", "panda", "large"),
        Sticker("top right", "taxi", "small"),
        Sticker("bottom right", "palm tree", "large"),
    ),
)
ALONE = Sheet("navy", (Sticker("middle", "umbrella", "small"),))


def sheets(number: int, seed: int = 0) -> list[Sheet]:
    """Sheets of all kinds, also those held out, and with twins more often than in training."""
    rng = np.random.default_rng(seed)
    names = tuple(KINDS)
    drawn = [any_sheet(rng, [pick(rng, names) for _ in range(1 + i % 4)], twice=0.4) for i in range(number // 2)]
    return drawn + [random_sheet(rng, ("train", "held_out")[i % 2]) for i in range(number - len(drawn))]


def changed(sheet: Sheet, rng: np.random.Generator) -> list[Sheet]:
    """Sheets that differ in one thing: the ground, a size, a kind, a place, a sticker less or more."""
    index = int(rng.integers(len(sheet.stickers)))
    one, others = sheet.stickers[index], sheet.stickers[:index] + sheet.stickers[index + 1 :]
    free = [p for p in PLACES if sheet.at(p) is None and (p in QUARTERS or not others)]
    found = [
        Sheet(next(g for g in GROUNDS if g != sheet.ground), sheet.stickers),
        Sheet(sheet.ground, (*others, dataclasses.replace(one, size=SIZES[one.size == SIZES[0]]))),
        Sheet(sheet.ground, (*others, dataclasses.replace(one, kind="cat" if one.kind != "cat" else "dog"))),
    ]
    found += [Sheet(sheet.ground, (*others, dataclasses.replace(one, place=place))) for place in free]
    if others:
        found.append(Sheet(sheet.ground, others))
        other = others[0]
        swapped = (dataclasses.replace(one, place=other.place), dataclasses.replace(other, place=one.place))
        found.append(Sheet(sheet.ground, (*swapped, *others[1:])))
    if free and one.place != "middle":
        found.append(
            Sheet(sheet.ground, (*sheet.stickers, Sticker(next(p for p in free if p != "middle"), "fox", "small")))
        )
    return [other for other in found if other != sheet]


def test_every_sentence_holds_for_its_sheet_and_for_no_changed_one() -> None:
    rng = np.random.default_rng(1)
    for i, sheet in enumerate(sheets(1000)):
        for style in styles_of(sheet):
            caption = describe(sheet, rng, bool(i % 2), style)
            assert caption == caption.lower() and not caption.endswith(".") and 7 <= len(caption.split()) <= 50
            statement = parse(caption)
            assert holds(statement, sheet) and holds(statement, sheet).why == "", caption
            for other in changed(sheet, rng) if style != "pair" else ():
                verdict = holds(statement, other)
                assert not verdict and verdict.why, (caption, other)


def test_a_pair_leaves_open_its_row_or_column_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    for sheet in sheets(1000, 1):
        if "pair" not in styles_of(sheet):
            continue
        statement = parse(describe(sheet, rng, style="pair"))
        assert {m.place for m in statement.mentions} == {None}
        content = {(s.kind, s.size) for s in sheet.stickers}
        related = {(a.kind, a.size, r, b.kind, b.size) for a, r, b in sheet.relations()}
        for other in changed(sheet, rng):
            same = (
                other.ground == sheet.ground
                and len(other.stickers) == 2
                and {(s.kind, s.size) for s in other.stickers} == content
                and {(a.kind, a.size, r, b.kind, b.size) for a, r, b in other.relations()} == related
            )
            assert bool(holds(statement, other)) == same


def test_in_order_the_stickers_come_as_one_reads() -> None:
    rng = np.random.default_rng(3)
    for sheet in sheets(300, 2):
        for style in styles_of(sheet):
            mentions = parse(describe(sheet, rng, True, style)).mentions
            assert [(m.kind, m.size) for m in mentions] == [(s.kind, s.size) for s in sheet.stickers]


def test_styles_come_by_their_weights_and_repeat_with_the_seed() -> None:
    sheet = Sheet("sand", SHEET.stickers[:2])
    captions = [describe(sheet, np.random.default_rng(seed)) for seed in range(900)]
    assert captions == [describe(sheet, np.random.default_rng(seed)) for seed in range(900)]
    told = Counter(
        "places" if s.mentions[1].place else "relations" if s.mentions[0].place else "pair"
        for s in map(parse, captions)
    )
    share = {style: STYLES[style] / 9 for style in ("places", "relations", "pair")}
    for style, part in share.items():
        assert abs(told[style] / 900 - part) < 4 * (part * (1 - part) / 900) ** 0.5, told
    assert 0.2 < sum(c.startswith("on a sand ground, ") for c in captions) / 900 < 0.4


def test_a_brief_tells_kinds_and_ground_alone() -> None:
    rng = np.random.default_rng(4)
    for sheet in sheets(600, 3):
        statement = parse(brief(sheet, rng))
        assert statement.ground == sheet.ground and not statement.relations and holds(statement, sheet)
        assert sorted(str(m.kind) for m in statement.mentions) == sorted(s.kind for s in sheet.stickers)
        assert {(m.size, m.place) for m in statement.mentions} == {(None, None)}


def test_a_loose_sentence_is_true_and_leaves_something_open() -> None:
    rng = np.random.default_rng(5)
    said: Counter[tuple[bool, bool, bool]] = Counter()
    for sheet in sheets(600, 4):
        statement = parse(loosely(sheet, rng))
        assert holds(statement, sheet)
        assert sorted(str(m.kind) for m in statement.mentions) == sorted(s.kind for s in sheet.stickers)
        sizes, places = {m.size is not None for m in statement.mentions}, {m.place for m in statement.mentions}
        assert len(sizes) == 1  # of all stickers or of none
        if len(sheet.stickers) > 1:
            said[sizes.pop(), None not in places, statement.ground is not None] += 1
    assert len(said) == 8 and min(said.values()) > 20
    said_so = {loosely(ALONE, rng) for _ in range(100)}
    wanted = {"an umbrella", "a small umbrella", "an umbrella on a navy ground", "a small umbrella on a navy ground"}
    assert said_so == wanted
    pair = {loosely(Sheet("mint", SHEET.stickers[:2]), rng) for _ in range(100)}
    assert {"a panda to the left of a taxi", "a taxi and a panda", "a small taxi and a large panda"} <= pair


@pytest.mark.parametrize(
    ("sheet", "style", "caption"),
    [
        (ALONE, "alone", "a small umbrella on a navy ground"),
        (ALONE, "places", "a small umbrella in the middle, on a navy ground"),
        (Sheet("mint", SHEET.stickers[:2]), "pair", "a large panda to the left of a small taxi, on a mint ground"),
        (
            Sheet("mint", SHEET.stickers[:2]),
            "relations",
            "a large panda at the top left and a small taxi to the right of it, on a mint ground",
        ),
        (
            SHEET,
            "places",
            "a large panda at the top left, a small taxi at the top right and a large palm tree at the bottom right, "
            "on a mint ground",
        ),
        (
            Sheet("sky", (Sticker("top left", "panda", "large"), Sticker("top right", "panda", "large"))),
            "places",
            "a large panda at the top left and another large panda at the top right, on a sky ground",
        ),
    ],
)
def test_what_a_sheet_is_called(sheet: Sheet, style: str, caption: str) -> None:
    said = {describe(sheet, np.random.default_rng(seed), True, style) for seed in range(20)}
    ground = f"on a {sheet.ground} ground"
    assert said == {caption, f"{ground}, {caption.removesuffix(ground).removesuffix(' ').removesuffix(',')}"}


@pytest.mark.parametrize(
    "text",
    [
        "A Large Panda at the top left, a taxi at the top-right and a palm tree at the bottom right on a mint ground",
        "the big panda, the little cab to the right of the panda and a palm tree below the taxi, on a mint background",
        "a panda,  a taxi and a palm tree",
        "on a mint ground: a palm tree in the bottom right, with a taxi above it and a panda left of the taxi",
        "a large panda to the left of a small taxi, a large palm tree below the taxi",
        "a panda at the top left, a sticker at the top right and a large sticker at the bottom right",
        "a panda to the left of the taxi and a palm tree below the taxi, on a mint ground",
    ],
)
def test_small_variations_are_taken(text: str) -> None:
    assert holds(parse(text), SHEET).why == ""


def test_what_is_unsaid_may_be_anything() -> None:
    panda = Mention("panda", None, "middle")
    assert parse("a panda") == Statement(None, (panda,)) and parse("A panda on a sky ground").mentions == (panda,)
    assert parse("a panda somewhere") == Statement(None, (Mention("panda"),))
    assert parse("a fish above a tropical fish").relations == ((0, "above", 1),)
    assert parse("a teddy bear, a bear").mentions == (Mention("teddy bear"), Mention("bear"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a large panda, a small taxi and a palm tree on a sky ground", "the ground is mint, not sky"),
        ("a large panda, a small taxi", "there are 3 stickers, not 2"),
        ("a large panda, a small taxi and a tree", "there is no tree; there is a palm tree at the bottom right"),
        ("a large panda, a large taxi and a palm tree", "the taxi is small, not large"),
        ("a panda in the middle, a taxi, a palm tree", "the panda is at the top left, not in the middle"),
        ("a panda, a taxi below it, a palm tree", "the taxi is not below the panda"),
    ],
)
def test_a_verdict_names_the_first_thing_that_is_wrong(text: str, why: str) -> None:
    assert holds(parse(text), SHEET).why == why


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "word 1 is the end, expected 'a' or 'an' or 'another' or 'one' or 'the'"),
        ("a large", "word 3 is the end, expected a kind of sticker"),
        ("a pnda", "word 2 is 'pnda', expected a size or a kind of sticker. Did you mean 'panda'?"),
        ("a panda at the top", "word 5 is 'top', expected 'top left' or 'top right' or 'middle'"),
        ("a panda on a green ground", "word 5 is 'green', expected 'sky' or 'mint'"),
        ("a panda a taxi", "word 3 is 'a', expected ',' or 'and' or 'on'"),
        ("on a mint ground, a panda a taxi", "word 7 is 'a', expected ',' or 'and' or the end"),
        ("a panda on a mint ground and", "word 7 is 'and', expected the end"),
        ("a panda above it", "word 4 is 'it', but no sticker was named before it; name the one that is meant"),
        ("a panda, a taxi, a cow above it", "word 8 is 'it', but 2 stickers were named before it"),
        ("a panda, a panda, a cow above the panda", "word 8: 'the panda' fits 2 stickers named before; give the place"),
    ],
)
def test_what_is_no_sentence_is_refused_at_its_word(text: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        parse(text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_style_that_is_unknown_or_does_not_apply_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="style='place': must be one of places, .*Did you mean 'places'"):
        describe(SHEET, rng, style="place")
    with pytest.raises(ConfigError, match="style='pair': does not apply to this sheet; those that do are places, rel"):
        describe(SHEET, rng, style="pair")
