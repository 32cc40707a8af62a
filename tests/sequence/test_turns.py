"""The grammar "chameleon" in ids: parts and borders, shorter documents that are whole, and documents before others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sequence_parts import VOCAB, document, same

from cm3.errors import ConfigError, DataError
from cm3.sequence.before import context_of, fitting, prepend, saved, with_documents
from cm3.sequence.mask import MaskLaw, cm3_mask
from cm3.sequence.segments import cells_of, document_of, runs, segments
from cm3.sequence.truncate import cut_texts, fit, shorten_text, truncate
from cm3.sequence.turns import ends, nothing, pictures_of, prompt_format
from cm3.vocab import Tokens, Vocab

V = Vocab(text=256, image=40, masks=0, reserved=3, grammar="chameleon", turn=7)
NUMBERS = st.lists(st.sampled_from([-4, -4, 1, 2, 5, 9]), max_size=5)


def parts(numbers: list[int], seed: int = 0) -> list[Tokens]:
    """n > 0 is n words, n < 0 a picture of -n codes; texts side by side are one."""
    rng, made = np.random.default_rng(seed), list[Tokens]()
    for n in numbers:
        low, high = (V.text_start, V.image_start) if n > 0 else (V.image_start, V.size)
        new = Tokens.of(rng.integers(low, high, abs(n)), None if n > 0 else range(1, 1 - n))
        if n > 0 and made and V.is_text(made[-1].ids).all():
            made[-1] = Tokens.concat([made[-1], new])
        else:
            made.append(new)
    return made


def is_document(tokens: Tokens) -> bool:
    """Whether it can be laid out of its own parts again."""
    found = [tokens.slice(a, b) for a, b in runs(tokens.ids, V)[:-1]]
    whole = same(document_of(found, V), tokens) and (cells_of(tokens.ids, V) == tokens.cells).all()
    return bool(whole) and all(V.is_text(p.ids).all() or p.length == 4 for p in found)


@given(NUMBERS)
def test_runs_are_the_parts(numbers: list[int]) -> None:
    made = parts(numbers)
    whole = document_of(made, V)
    found = runs(whole.ids, V)
    assert [whole.slice(a, b).ids.tolist() for a, b in found[:-1]] == [p.ids.tolist() for p in made]
    assert found[-1] == (whole.length, whole.length) and segments(whole.ids, V) == found[:-1]
    assert whole.ids[0] == V.bos and whole.ids[-1] == V.eos and is_document(whole)


@given(NUMBERS, st.integers(0, 40))
def test_a_document_that_is_cut_is_a_document(numbers: list[int], room: int) -> None:
    whole = document_of(parts(numbers), V)
    cut = truncate(whole, room, V)
    if cut is not None:
        assert cut.length <= max(room, 0) or cut is whole
        assert is_document(cut) and (cut.ids[:-1] == whole.ids[: cut.length - 1]).all()
        if cut.length < min(room, whole.length):  # no longer one would do
            longer = whole.slice(0, cut.length)
            assert not is_document(Tokens.concat([longer, Tokens.of([V.eos])]))
    fitted = fit(whole, 12, V, lambda tokens, longest=None: cm3_mask(tokens, V, MaskLaw(), np.random.default_rng(0)))
    assert fitted.tokens is None or (fitted.tokens.length <= 12 and is_document(fitted.tokens))


def test_texts_are_made_shorter() -> None:
    whole = document_of(parts([3, -4, 9]), V)
    shorter = shorten_text(whole, 4, V)
    assert shorter is not None and shorter.length == whole.length - 4 and is_document(shorter)
    cut = cut_texts(whole, 2, V, lambda ids: b"x" * len(ids))
    assert is_document(cut) and [b - a for a, b in runs(cut.ids, V)[:-1]] == [2, 4, 2]


def test_documents_stand_before_a_query() -> None:
    query, other = document_of(parts([3], 1), V), document_of(parts([2, -4], 2), V)
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


def test_formats_by_name() -> None:
    plain = Vocab(text=256, image=40, masks=0, reserved=3, grammar="chameleon")
    assert (prompt_format({}, V), prompt_format({}, plain), prompt_format({}, VOCAB)) == ("chameleon", "plain", "plain")
    assert prompt_format({"prompt_format": "anole"}, V) == "anole"
    assert ends(V) == (V.eos, 7) and ends(plain) == (V.eos,)
    with pytest.raises(ConfigError, match="has turns, and this vocabulary has no id that ends one"):
        prompt_format({"prompt_format": "anole"}, plain)
    with pytest.raises(ConfigError, match="about.prompt_format=3: must be one of chameleon, anole, lumina, plain"):
        prompt_format({"prompt_format": 3}, V)
