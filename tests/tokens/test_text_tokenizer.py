"""Byte-level BPE: lossless for anything, deterministic, refuses what it cannot hold."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.tokens.text import WORD, TextTokenizer, _Pieces

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


def _exchanged(page: dict[str, Any]) -> None:
    a, b = sorted(page["model"]["vocab"])[:2]
    vocab = page["model"]["vocab"]
    vocab[a], vocab[b] = vocab[b], vocab[a]


def _merges_exchanged(page: dict[str, Any]) -> None:
    merges = page["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def _merge_dropped(page: dict[str, Any]) -> None:
    del page["model"]["merges"][-1]


def _entry_altered(page: dict[str, Any]) -> None:
    vocab = page["model"]["vocab"]
    last = max(vocab, key=vocab.get)
    vocab["zqzq"] = vocab.pop(last)


@pytest.mark.parametrize("alter", [_exchanged, _merges_exchanged, _merge_dropped, _entry_altered])
def test_an_altered_entry_or_merge_is_told(tmp_path: Path, alter: Callable[[dict[str, Any]], None]) -> None:
    """No checksum guards the file, and the library would read it: as another tokenizer, in silence."""
    path = tmp_path / "tokenizer.json"
    made = TextTokenizer.train(["a tall tower and a taller tower stand at the shore of the sea"] * 4, 280)
    made.save(path)
    assert TextTokenizer.load(path).size == made.size
    page = json.loads(path.read_text())
    alter(page)
    path.write_text(json.dumps(page))
    with pytest.raises(CheckpointError, match="damaged or not a byte-level BPE .*; restore the file or train anew"):
        TextTokenizer.load(path)


def test_words_that_are_too_long_are_cut_and_counted() -> None:
    rng = np.random.default_rng(0)
    long = "".join("abcd"[i] for i in rng.integers(0, 4, 10 * WORD + 5))
    made = TextTokenizer.train([f"a {long} b", "short words"], 300)
    assert made.cut == 10 and TextTokenizer.train(["x" * WORD, " " * WORD], 300).cut == 0
    assert TextTokenizer.train([" " * (WORD + 1)], 300).cut == 1
    assert made.decode(made.encode(long)) == long
    # It learns what the pieces have, cut by hand.
    pieces = [f"a {long[:WORD]}", *(long[i : i + WORD] for i in range(WORD, 10 * WORD, WORD)), f"{long[10 * WORD :]} b"]
    again = TextTokenizer.train([*pieces, "short words"], 300)
    assert again.encode(long) == made.encode(long) and again.cut == 0


def test_the_work_grows_with_the_text_and_not_with_a_word() -> None:
    """What the library is given has no word longer than the bound, however long the text's are."""
    text = "x" * 123_456 + " " * 5000 + "y z" + "\u4e2d" * 2500
    pieces = list(_Pieces([text]))
    assert "".join(pieces) == text
    assert max(len(run) for piece in pieces for run in re.findall(r"\S+|\s+", piece)) == WORD
