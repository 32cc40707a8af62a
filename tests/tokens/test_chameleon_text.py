"""Words of a Chameleon file: its own splits and merges, the file itself back, and no special from what is typed."""

from __future__ import annotations

import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from published_tokenizer import CORPUS, of_transformers, text_tokenizer

from cm3.errors import CheckpointError, DataError
from cm3.tokens.chameleon import ChameleonText, entries_of, read_text_tokenizer
from cm3.tokens.text import TextTokenizer

META = text_tokenizer()
WORDS = ChameleonText.parse(META, "text_tokenizer.json")
PUBLISHED = tokenizers.Tokenizer.from_str(META.decode())


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    ids = WORDS.encode(text)
    assert WORDS.decode(ids) == text
    assert all(0 <= i < WORDS.size for i in ids)


@given(st.binary())
@settings(max_examples=100, deadline=None)
def test_any_bytes_come_back(data: bytes) -> None:
    assert WORDS.decode_bytes(WORDS.encode_bytes(data)) == data


def test_words_are_those_of_the_file() -> None:
    for text in CORPUS:
        ids = PUBLISHED.encode(text, add_special_tokens=False).ids
        assert [WORDS.entries.text[i] for i in WORDS.encode(text)] == ids
        assert len(ids) < len(text.encode())


def test_what_a_user_types_spells_no_special() -> None:
    for id, name in enumerate(WORDS.entries.names):
        if id not in WORDS.entries.text:
            assert PUBLISHED.encode(name).ids == [id]
            assert WORDS.decode(WORDS.encode(name)) == name
    assert WORDS.size == len(WORDS.entries.text)


def test_merges_that_would_make_a_special_are_left_out() -> None:
    page = json.loads(META)
    pairs = [["I", "M"], ["IM", "G"], ["IMG", "IMG"], ["IMGIMG", "A"], ["IMGIMGA", "Z"]]
    page["model"]["merges"] = [*pairs, *page["model"]["merges"]]
    for a, b in pairs[:-1]:
        page["model"]["vocab"][a + b] = len(page["model"]["vocab"])
    made = ChameleonText.parse(json.dumps(page).encode(), "t")
    assert [made.decode([i]) for i in made.encode("IMGIMGAZ")] == ["IMGIMGA", "Z"]


@pytest.mark.parametrize("data", [META, of_transformers(META)[0]], ids=["meta", "transformers"])
def test_the_file_comes_back_byte_for_byte_and_is_known_by_its_content(data: bytes) -> None:
    found = read_text_tokenizer(data, "tokenizer.json")
    assert isinstance(found, ChameleonText) and found.to_bytes() == data
    assert found.encode("a small red circle") == WORDS.encode("a small red circle")


def test_another_file_is_ours() -> None:
    ours = TextTokenizer.train(CORPUS, 300)
    found = read_text_tokenizer(ours.to_bytes(), "tokenizer.json")
    assert type(found) is TextTokenizer and found.to_bytes() == ours.to_bytes()
    for data in (b"\xff", b"[]", b"{}", b'{"model": {"vocab": 3}}'):
        with pytest.raises(CheckpointError, match="tokenizer 'x': damaged or not a byte-level BPE"):
            read_text_tokenizer(data, "x")


def test_text_of_a_byte_without_an_entry_is_refused() -> None:
    page = json.loads(META)
    last = max(page["model"]["vocab"], key=page["model"]["vocab"].get)
    gone = next(name for name in page["model"]["vocab"] if name == "\u00fc")  # byte 0xFC, which no UTF-8 has
    page["model"]["vocab"][last + last] = page["model"]["vocab"].pop(gone)
    made = ChameleonText.parse(json.dumps(page).encode(), "t")
    assert made.decode(made.encode("gr\u00fcn")) == "gr\u00fcn"
    with pytest.raises(DataError, match="byte 0xFC has no entry in this model's tokenizer"):
        made.encode_bytes(b"a\xfc")


@pytest.mark.parametrize("field", ["merges", "pre_tokenizer"])
def test_a_file_that_is_no_byte_level_bpe_is_refused(field: str) -> None:
    page = json.loads(META)
    if field == "merges":
        page["model"]["merges"] = [["a"]]
    else:
        page["pre_tokenizer"] = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
    with pytest.raises(CheckpointError, match="byte-level BPE"):
        ChameleonText.parse(json.dumps(page).encode(), "t")


def test_names_of_other_numbers_of_ids() -> None:
    entries = entries_of(json.loads(text_tokenizer(codes=11, reserved=1, sentinels=0)), "t")
    assert [entries.names[i] for i in entries.images[:11:5]] == ["IMGIMGAZ", "IMGIMGFZ", "IMGIMGBAZ"]
    assert entries.turn is not None and entries.names[entries.turn] == "<reserved08706>"
