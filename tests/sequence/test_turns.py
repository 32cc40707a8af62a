"""The grammar "chameleon" in ids, with and without marks in pictures: parts and borders, shorter documents that are
whole, and documents before others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sequence_parts import VOCAB, document, same

from cm3.errors import ConfigError, DataError
from cm3.sequence.answers import answered
from cm3.sequence.before import context_of, fitting, prepend, saved, with_documents
from cm3.sequence.holes import Hole, Prompt
from cm3.sequence.mask import MaskLaw, cm3_mask
from cm3.sequence.segments import cells_of, document_of, image_codes, image_tokens, runs, segments
from cm3.sequence.truncate import cut_texts, fit, shorten_text, truncate
from cm3.sequence.turns import ends, nothing, pictures_of, prompt_format
from cm3.vocab import Marks, Tokens, Vocab

V = Vocab(text=256, image=40, masks=0, reserved=3, grammar="chameleon", turn=7)
MARKED = Vocab(text=256, image=40, masks=0, reserved=6, grammar="chameleon", turn=7, marks=Marks(8, 9, 11))
BOTH = pytest.mark.parametrize("v", [V, MARKED], ids=["plain", "marked"])
NUMBERS = st.lists(st.sampled_from([-4, -4, 1, 2, 5, 9]), max_size=5)


def parts(numbers: list[int], v: Vocab = V, seed: int = 0) -> list[Tokens]:
    """n > 0 is n words, n < 0 a picture of 2 x 2 codes; texts side by side are one."""
    rng, made = np.random.default_rng(seed), list[Tokens]()
    for n in numbers:
        if n < 0:
            made.append(image_tokens(rng.integers(0, v.image, (2, 2)), v))
            continue
        new = Tokens.of(rng.integers(v.text_start, v.image_start, n))
        if made and v.is_text(made[-1].ids).all():
            made[-1] = Tokens.concat([made[-1], new])
        else:
            made.append(new)
    return made


def is_document(tokens: Tokens, v: Vocab = V) -> bool:
    """Whether it can be laid out of its own parts again."""
    found = [tokens.slice(a, b) for a, b in runs(tokens.ids, v)[:-1]]
    whole = same(document_of(found, v), tokens) and (cells_of(tokens.ids, v) == tokens.cells).all()
    return bool(whole) and all(v.is_text(p.ids).all() or p.length == (4 if v == V else 6) for p in found)


@BOTH
@given(NUMBERS)
def test_runs_are_the_parts(v: Vocab, numbers: list[int]) -> None:
    made = parts(numbers, v)
    whole = document_of(made, v)
    found = runs(whole.ids, v)
    assert [whole.slice(a, b).ids.tolist() for a, b in found[:-1]] == [p.ids.tolist() for p in made]
    assert found[-1] == (whole.length, whole.length) and segments(whole.ids, v) == found[:-1]
    assert whole.ids[0] == v.bos and whole.ids[-1] == v.eos and is_document(whole, v)


@BOTH
@given(NUMBERS, st.integers(0, 40))
def test_a_document_that_is_cut_is_a_document(v: Vocab, numbers: list[int], room: int) -> None:
    whole = document_of(parts(numbers, v), v)
    cut = truncate(whole, room, v)
    if cut is not None:
        assert cut.length <= max(room, 0) or cut is whole
        assert is_document(cut, v) and (cut.ids[:-1] == whole.ids[: cut.length - 1]).all()
        if cut.length < min(room, whole.length):  # no longer one would do
            longer = whole.slice(0, cut.length)
            assert not is_document(Tokens.concat([longer, Tokens.of([v.eos])]), v)
    fitted = fit(whole, 12, v, lambda tokens, longest=None: cm3_mask(tokens, v, MaskLaw(), np.random.default_rng(0)))
    assert fitted.tokens is None or (fitted.tokens.length <= 12 and is_document(fitted.tokens, v))


@BOTH
def test_texts_are_made_shorter(v: Vocab) -> None:
    whole = document_of(parts([3, -4, 9], v), v)
    shorter = shorten_text(whole, 4, v)
    assert shorter is not None and shorter.length == whole.length - 4 and is_document(shorter, v)
    cut = cut_texts(whole, 2, v, lambda ids: b"x" * len(ids))
    assert is_document(cut, v) and [b - a for a, b in runs(cut.ids, v)[:-1]] == [2, 4 if v == V else 6, 2]


def test_documents_stand_before_a_query() -> None:
    query, other = document_of(parts([3], seed=1), V), document_of(parts([2, -4], seed=2), V)
    made = with_documents(query, [other, other], V)
    inner = other.ids[1:-1].tolist()
    assert made.ids.tolist() == [V.bos, *inner, *inner, *query.ids[1:].tolist()]
    assert made.length == query.length + 2 * (other.length - saved(V))
    assert same(made, prepend(context_of([other, other], V), query))
    assert with_documents(query, [other, other], V, made.length - 1).length == made.length - len(inner)
    assert len(fitting(query, [other], query.length + len(inner), saved(V))) == 1
    for wrong in (query.slice(1, query.length), document(2, vocab=VOCAB)):
        with pytest.raises(DataError, match="must be one whole document, <s> and </s> at its ends"):
            with_documents(query, [wrong], V)


def test_what_guides_a_picture() -> None:
    asked = Tokens.concat([document_of(parts([2, -4, 3]), V).slice(0, 12), Tokens.of([7, V.brk])])
    assert nothing(asked, V).ids.tolist() == [V.bos, V.brk]
    assert nothing(asked.slice(0, 13), V).ids.tolist() == [V.bos]
    shown = pictures_of(asked, V)
    assert shown.ids.tolist() == [V.bos, V.brk, *asked.ids[4:8].tolist(), V.eoss, V.brk]
    assert shown.cells.tolist() == [0, 0, 1, 2, 3, 4, 0, 0]


def test_a_picture_with_marks() -> None:
    """`<break>`, height, width, rows with a mark behind each, `<eoss>`: Lumina-mGPT's item_processor.py."""
    v, codes = MARKED, np.arange(6).reshape(2, 3)
    a, b = [v.image_start + i for i in range(3)], [v.image_start + i for i in range(3, 6)]
    picture = image_tokens(codes, v)
    assert picture.ids.tolist() == [*a, 11, *b, 11] and picture.cells.tolist() == [1, 2, 3, 0, 4, 5, 6, 0]
    assert image_codes(picture.ids, v).tolist() == [*range(6)]
    whole = document_of([picture, Tokens.of([v.text_start]), picture], v)
    block = [v.brk, 8, 9, *a, 11, *b, 11, v.eoss]
    assert whole.ids.tolist() == [v.bos, *block, v.text_start, *block, v.eos]
    assert cells_of(whole.ids, v).tolist() == whole.cells.tolist()
    asked = Tokens.concat([whole.slice(0, whole.length - 1), Tokens.of([7, *v.begins])])
    assert nothing(asked, v).ids.tolist() == [v.brk, 8, 9]
    assert nothing(asked.slice(0, asked.length - 3), v).ids.tolist() == [v.brk]
    assert pictures_of(asked, v).ids.tolist() == [v.bos, *block, *block, v.brk, 8, 9]


def test_an_answer_with_marks_ends_in_a_turn_and_learns_what_begins_a_picture() -> None:
    v, picture = MARKED, image_tokens(np.arange(4).reshape(2, 2), MARKED)
    words = Tokens.of([v.bos, v.text_start, 7])
    asked = Prompt(Tokens.concat([words, Tokens.of(v.begins)]), (Hole("image", tuple(picture.cells), 0, 1),), {})
    made = answered(asked, picture, v, rest=0.0)
    assert made.tokens.ids.tolist() == [*asked.tokens.ids, *picture.ids, v.eoss, 7]
    assert made.weights.tolist() == [0.0] * 3 + [1.0] * (3 + 6 + 2)
    text = answered(Prompt(words, (Hole("text", (), 0, 1),), {}), Tokens.of([v.text_start]), v, rest=0.0)
    assert text.tokens.ids.tolist() == [*words.ids, v.text_start, 7] and text.weights.tolist() == [0, 0, 0, 1, 1]


def test_formats_by_name() -> None:
    plain = Vocab(text=256, image=40, masks=0, reserved=3, grammar="chameleon")
    assert (prompt_format({}, V), prompt_format({}, plain), prompt_format({}, VOCAB)) == ("chameleon", "plain", "plain")
    assert prompt_format({"prompt_format": "anole"}, V) == "anole"
    assert ends(V) == (V.eos, 7) and ends(plain) == (V.eos,)
    with pytest.raises(ConfigError, match="has turns, and this vocabulary has no id that ends one"):
        prompt_format({"prompt_format": "anole"}, plain)
    with pytest.raises(ConfigError, match="about.prompt_format=3: must be one of chameleon, anole, lumina, plain"):
        prompt_format({"prompt_format": 3}, V)
    assert prompt_format({}, MARKED) == prompt_format({"prompt_format": "lumina"}, MARKED) == "lumina"
    for name, vocab in (("lumina", V), ("chameleon", MARKED), ("plain", MARKED)):
        with pytest.raises(ConfigError, match="'lumina' is the format where vocab.marks has those of pictures"):
            prompt_format({"prompt_format": name}, vocab)
