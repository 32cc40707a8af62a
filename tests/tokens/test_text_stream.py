"""Text of any amount: every text once, cut nowhere it matters, bounded by the limit, the same by the seed."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from cm3.data import text_stream
from cm3.data.text_stream import HeldOut, TextStream, texts_of
from cm3.errors import CheckpointError, DataError
from cm3.tokens.text import TextTokenizer, open_other

LINES = [f"{i} " + "na\u00efve \u4e2d\u6587 \U0001f600 "[: i % 17] * (i % 5) + "\n" for i in range(400)]


@pytest.fixture(params=[5, 64, 1 << 23])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces of this many bytes, most of which begin inside a line or a character."""
    monkeypatch.setattr(text_stream, "PIECE", request.param)
    return request.param


def corpus(path: Path, lines: list[str], packed: bool = False) -> Path:
    data = "".join(lines).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ["\n", "", "\r\n"])
def test_every_line_comes_once_and_whole(tmp_path: Path, piece: int, packed: bool, end: str) -> None:
    lines = [*LINES[:-1], LINES[-1].rstrip("\n") + end]
    path = corpus(tmp_path / ("a.txt.gz" if packed else "a.txt"), lines, packed)
    stream = TextStream([path])
    for _ in range(2):
        assert list(stream) == lines
        assert stream.whole and stream.texts == len(lines) and stream.bytes == len("".join(lines).encode())
    shuffled = TextStream([path], limit=10**9, seed=1)
    assert sorted(shuffled) == sorted(lines) and shuffled.whole


def test_a_long_line_is_cut_between_characters(tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_stream, "LINE", 10)
    text = "\ufeff" + "a\U0001f600\u4e2d" * 50
    texts = list(TextStream([corpus(tmp_path / "a.txt", [text, "\n", "b\n"])]))
    assert "".join(texts) == text.removeprefix("\ufeff") + "\nb\n" and len(texts) > 40


def test_empty_files_have_no_texts(tmp_path: Path) -> None:
    paths = [corpus(tmp_path / "a.txt", []), corpus(tmp_path / "b.txt.gz", [], packed=True)]
    stream = TextStream(paths, limit=10)
    assert list(stream) == [] and stream.whole


def test_json_lines_and_what_they_lack(tmp_path: Path, piece: int) -> None:
    records = [{"text": "one"}, {"caption": "two", "image": "x.jpg"}, "three", {"text": None, "caption": "four"}]
    records += [{"parts": [{"text": "five"}, {"image": "gone.jpg"}, {"text": "six"}]}]
    bad = ["{", "", json.dumps({"image": "x.jpg"}), json.dumps([1]), '{"text": "\\ud800"}']
    for name in ("a.jsonl", "b.jsonl.gz"):
        lines = [line + "\n" for line in [*map(json.dumps, records), *bad]]
        stream = TextStream([corpus(tmp_path / name, lines, name.endswith("gz"))])
        assert list(stream) == ["one", "two", "three", "four", "five", "six"]
        assert sorted(stream.skipped.values()) == [1, 1, 2] and stream.whole
    assert texts_of({"text": 7}) == texts_of({"parts": "x"}) == texts_of({"parts": [7]}) == []


def test_a_limit_is_kept_whatever_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_stream, "PIECE", 100)
    path = corpus(tmp_path / "a.txt", LINES)
    taken = []
    for seed in (0, 1):
        stream = TextStream([path], limit=1000, seed=seed)
        texts = list(stream)
        assert 900 < sum(len(t.encode()) for t in texts) == stream.bytes <= 1000 and not stream.whole
        assert texts == list(TextStream([path], limit=1000, seed=seed)) and set(texts) < set(LINES)
        taken.append(texts)
    assert taken[0] != taken[1] and max(LINES.index(t) for t in taken[0]) > 200, "not the first lines"


def test_a_sample_is_of_every_source_by_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_stream, "PIECE", 100)
    rng = np.random.default_rng(0)
    for name, lines in (("a", 3000), ("b", 1000)):
        corpus(tmp_path / f"{name}.txt", [f"{name} {rng.integers(10**9):09}\n" for _ in range(lines)])
    packed = [f"c {rng.integers(10**9):09}\n" for _ in range(1000)]
    corpus(tmp_path / "c.txt.gz", packed, packed=True)
    counts = Counter(text[0] for text in TextStream([tmp_path], limit=20_000, seed=3))
    # 3 : 1, and the packed one about as much as the latter, which is as long.
    assert 2 < counts["a"] / counts["b"] < 4.5 and 0.4 < counts["c"] / counts["b"] < 3


def test_the_rest_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader without end, and a limit: it stops."""
    from cm3.document import Document
    from cm3.read.base import Reader, Unit

    class Endless(Reader):
        kind = source = "endless"

        @classmethod
        def recognises(cls, root: Path) -> bool:
            return True

        def units(self, size: int = 1000) -> list[Unit]:
            return [Unit("all")]

        def read(self, unit: Unit) -> Iterator[Document]:
            return (Document.of(f"the text {i}", id=str(i)) for i in itertools.count())

    monkeypatch.setattr(text_stream, "open_reader", lambda source: Endless())
    stream = TextStream(["webdataset:endless"], limit=100_000)
    tokenizer = TextTokenizer.train(stream, 300)
    assert tokenizer.size == 300 and 99_900 < stream.bytes <= 100_000 and not stream.whole


def test_a_folder_of_captions_is_read_without_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    corpus(tmp_path / "a.txt", ["a boat"])
    corpus(tmp_path / "deep" / "b.TXT", ["a cat\n", "a dog"])
    (tmp_path / "c.md").write_bytes(b"\xff not read")
    for source in (tmp_path, f"folder:{tmp_path}"):
        assert list(TextStream([source])) == ["a boat", "a cat\n", "a dog"]
    assert list(TextStream([tmp_path / "a.txt", tmp_path / "a.txt"])) == ["a boat"] * 2


def test_captions_of_a_dataset(shared_data: Path) -> None:
    folder = shared_data / "coco_mini"
    if not folder.is_dir():
        pytest.skip("no coco_mini in ../shared/data")
    content = json.loads((folder / "annotations" / "captions_val2017.json").read_text())
    captions = sorted(a["caption"].strip() for a in content["annotations"])
    assert sorted(TextStream([f"coco:{folder}@val2017"])) == captions
    sample = list(TextStream([f"coco:{folder}@val2017"], limit=2000))
    assert len(sample) > 20 and sum(map(len, sample)) <= 2000 and not Counter(sample) - Counter(captions)


def test_documents_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "val2017" / "a.png")
    content = {
        "images": [{"id": i, "file_name": f"{name}.png", "license": 1} for i, name in enumerate("ab")],
        "annotations": [{"id": i, "image_id": i, "caption": f"caption {i}"} for i in range(2)],
    }
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    stream = TextStream([f"coco:{tmp_path}@val2017"])
    assert list(stream) == ["caption 0"] and stream.skipped == {"a document that cannot be read": 1}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.txt", "'.*nowhere.txt': no such file or folder; check the path"),
        ("empty", "'.*empty': the folder holds no file that ends in .txt, .txt.gz, .jsonl, .jsonl.gz, .warc"),
    ],
)
def test_sources_that_are_refused(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        TextStream([tmp_path / source])


def test_arguments_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no source given; name at least one text file, folder or dataset"):
        TextStream([])
    with pytest.raises(DataError, match="limit=0: must be at least 1 byte; leave it out for all"):
        TextStream([corpus(tmp_path / "a.txt", ["a"])], limit=0)


@pytest.mark.parametrize(
    ("data", "at"), [(b"a \xff", 2), (b"ok\na \xff b", 5), (b"\xef\xbb\xbfa\xff", 4), (b"a\xe4\xb8", 1)]
)
def test_files_that_are_not_utf8(tmp_path: Path, piece: int, data: bytes, at: int) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=f"a.txt': not UTF-8 at byte {at}; convert it first"):
        list(TextStream([tmp_path / "a.txt"]))


def test_damaged_gz(tmp_path: Path) -> None:
    whole = gzip.compress(np.random.default_rng(0).integers(97, 122, 10_000, dtype=np.uint8).tobytes())
    middle = len(whole) // 2
    for data in (whole[:middle], b"no gzip", whole[:middle] + bytes(20) + whole[middle + 20 :]):
        (tmp_path / "a.txt.gz").write_bytes(data)
        with pytest.raises(DataError, match="a.txt.gz': is damaged .*; download or pack it again"):
            list(TextStream([tmp_path / "a.txt.gz"]))


def test_held_out_texts_are_kept_apart() -> None:
    texts = [str(i) for i in range(250)]
    held = HeldOut(texts)
    assert sorted([*held, *held.texts], key=int) == texts and held.texts == ["99", "199"]
    few = HeldOut(texts[:99])
    assert list(few) == few.texts == texts[:99] and few.apart == []


def test_stats_against_others(tmp_path: Path) -> None:
    good, poor = TextTokenizer.train(LINES, 400), TextTokenizer.train([], 256)
    poor.save(tmp_path / "poor.json")
    poor.save(tmp_path / "good.json")
    good.save(tmp_path / "good.json")
    others = {name: open_other(str(tmp_path / f"{name}.json")) for name in ("poor", "good")}
    stats = good.stats(iter(LINES), others)
    assert stats["texts"] == 400 and stats["lossless"] is True
    assert stats["against"] == {"poor": 1.0, "good": stats["bytes_per_token"]} and stats["bytes_per_token"] > 1
    assert good.stats([], others)["against"] == {"poor": 0.0, "good": 0.0}
    with pytest.raises(DataError, match=r"text 1: .*lone surrogate U\+D800"):
        good.stats(["fine", "\ud800"])


def test_others_that_are_not_at_hand(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    for name in (str(tmp_path / "bad.json"), str(tmp_path / "gone.json"), "nobody/nothing"):
        with pytest.raises(CheckpointError, match="tokenizer '.*': is not at hand .*; give a tokenizer.json or a hub"):
            open_other(name)


def pseudo_words(n: int) -> list[str]:
    """Words of two to five syllables, most of them distinct."""
    rng = np.random.default_rng(0)
    syllables = np.array([c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"])
    return ["".join(syllables[rng.integers(0, 90, k)]) for k in rng.integers(2, 6, n)]


def test_a_vocabulary_of_the_papers_size(tmp_path: Path) -> None:
    words = pseudo_words(44_000)
    lines = [" " + " ".join(words[i : i + 20]) + "\n" for i in range(0, len(words), 20)]
    path = corpus(tmp_path / "words.txt", lines * 2)
    held = HeldOut(TextStream([path], limit=10**8))
    tokenizer = TextTokenizer.train(held, 56_320)
    assert tokenizer.size == 56_320
    stats = tokenizer.stats(held.texts)
    assert stats["lossless"] is True and stats["texts"] == 44
    files = []
    for name in ("one", "two"):
        small = TextTokenizer.train(TextStream([path], limit=10**5, seed=5), 1000)
        small.save(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert small.stats(held.texts)["bytes_per_token"] < stats["bytes_per_token"]


@pytest.mark.parametrize("line", ["[" * 200_000, '{"text": "x", "n": ' + "1" * 5000 + "}", '{"text": "\\ud800"}'])
def test_lines_that_no_parser_takes_are_skipped_and_counted(tmp_path: Path, line: str) -> None:
    path = corpus(tmp_path / "a.jsonl", ['{"text": "before"}\n', line + "\n", '{"text": "after"}\n'])
    stream = TextStream([path])
    assert list(stream) == ["before", "after"] and stream.skipped.total() == 1


def test_hidden_files_are_no_text(tmp_path: Path) -> None:
    for name in (".git/a.txt", ".ipynb_checkpoints/b.txt", "__MACOSX/c.txt", "._d.txt", "e/f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        corpus(tmp_path / name, [name])
    assert list(TextStream([tmp_path])) == ["e/f.txt"]


def test_words_by_other_names() -> None:
    assert texts_of({"captions": ["a", "b"]}) == ["a", "b"] and texts_of({"image": "x.jpg", "prompt": "p"}) == ["p"]
    assert texts_of({"prompt": "half of it"}) == [] and texts_of({"text": "t", "caption": "c"}) == ["t"]
