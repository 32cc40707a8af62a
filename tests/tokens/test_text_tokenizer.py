"""Byte-level BPE: lossless for anything, deterministic, refuses what it cannot hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.tokens.text import TextTokenizer

CORPUS = [
    f"a {size} {colour} circle left of the {colour} square, n\u00b0{i}"
    for i in range(40)
    for size in ("small", "big")
    for colour in ("red", "blue", "gr\u00fcn")
]
TOKENIZER = TextTokenizer.train(CORPUS, 400)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert all(0 <= i < TOKENIZER.size for i in ids)


@given(st.binary())
@settings(max_examples=200, deadline=None)
def test_any_bytes_come_back(data: bytes) -> None:
    ids = TOKENIZER.encode_bytes(data)
    assert TOKENIZER.decode_bytes(ids) == data
    assert TOKENIZER.decode(ids) == data.decode("utf-8", errors="replace")


@given(st.text())
@settings(max_examples=50, deadline=None)
def test_valid_bytes_encode_as_text(text: str) -> None:
    assert TOKENIZER.encode_bytes(text.encode()) == TOKENIZER.encode(text)


def test_it_compresses_what_it_was_trained_on() -> None:
    stats = TOKENIZER.stats(CORPUS)
    assert stats["bytes"] == sum(len(t.encode()) for t in CORPUS)
    assert stats["bytes_per_token"] == stats["bytes"] / stats["tokens"] > 3
    assert TOKENIZER.stats([])["bytes_per_token"] == 0


def test_a_space_goes_with_the_word_after_it() -> None:
    pieces = [TOKENIZER.decode([i]) for i in TOKENIZER.encode("a small red circle")]
    assert pieces == ["a", " small", " red", " circle"]


def test_same_texts_same_file_whatever_the_threads(tmp_path) -> None:
    code = (
        "import sys, json; from cm3.tokens.text import TextTokenizer as T;"
        "T.train(iter(json.load(open(sys.argv[1]))), 400).save(sys.argv[2])"
    )
    (tmp_path / "corpus.json").write_text(json.dumps(CORPUS))
    TOKENIZER.save(tmp_path / "here.json")
    for threads in ("1", "5"):
        out = tmp_path / f"{threads}.json"
        env = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "corpus.json"), str(out)], check=True, env=env)
        assert out.read_bytes() == (tmp_path / "here.json").read_bytes()


def test_save_and_load(tmp_path) -> None:
    path = tmp_path / "deep" / "tokenizer.json"
    TOKENIZER.save(path)
    loaded = TextTokenizer.load(path)
    assert loaded.size == TOKENIZER.size
    assert [loaded.encode(t) for t in CORPUS] == [TOKENIZER.encode(t) for t in CORPUS]
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.json"]


def test_a_small_corpus_yields_what_it_can() -> None:
    assert TextTokenizer.train(["aa aa"], 4000).size == 256 + 1  # the bytes and "aa"; " aa" is there only once
    assert TextTokenizer.train([], 300).size == 256


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "byte", "added", "prefix", "binary", "lowercase"])
def test_damaged_file_names_the_path(tmp_path, damage: str) -> None:
    path = tmp_path / "tokenizer.json"
    TOKENIZER.save(path)
    text = path.read_text(encoding="utf-8")
    spec = json.loads(text)
    if damage == "byte":
        spec["model"]["vocab"]["\u4e2d"] = spec["model"]["vocab"].pop("A")
    if damage == "added":
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        spec["added_tokens"] = [{"id": spec["model"]["vocab"]["a"], "content": "a", "special": True, **flags}]
    if damage == "prefix":
        spec["pre_tokenizer"]["add_prefix_space"] = True
    if damage == "lowercase":
        spec["normalizer"] = {"type": "Lowercase"}
    data = {"cut": text[:500], "empty": "", "other": "{}"}.get(damage, json.dumps(spec)).encode()
    path.write_bytes(b"\xff\xfe\x00" if damage == "binary" else data)
    with pytest.raises(CheckpointError, match="tokenizer.json.*damaged") as caught:
        TextTokenizer.load(path)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="nowhere.json.*no such file"):
        TextTokenizer.load(tmp_path / "nowhere.json")


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="size=255: must be at least 256"):
        TextTokenizer.train(CORPUS, 255)
    with pytest.raises(DataError, match="wrap it in a list"):
        TextTokenizer.train("one string", 300)
    with pytest.raises(DataError, match=r"training text 1: .*U\+D800 at character 2"):
        TextTokenizer.train(["fine", "no\ud800"], 300)
    with pytest.raises(DataError, match="training text 0: .*got int"):
        TextTokenizer.train([7], 300)  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"lone surrogate U\+DC80 at character 1"):
        TOKENIZER.encode("x\udc80")
    for bad in (-1, TOKENIZER.size):
        with pytest.raises(DataError, match=f"text id {bad} at position 1"):
            TOKENIZER.decode([0, bad])
