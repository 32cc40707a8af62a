"""JSON lines: interleaved documents, where they are in their file, and lines that are wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError
from cm3.read import base, jsonl
from cm3.read.base import Unit
from cm3.read.jsonl import JsonLines

PAGE = {
    "id": "page 7",
    "source": "zoo",
    "license": "CC0-1.0",
    "parts": [{"text": "A cat"}, {"image": "img/cat.png"}, {"text": " and "}, {"image": "img/dog.png"}],
    "question": "who?",
    "answers": ["both"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two files of documents in a folder, and two pictures."""
    (tmp_path / "img").mkdir()
    for name, colour in (("cat", "red"), ("dog", "blue")):
        PIL.Image.new("RGB", (6, 4), colour).save(tmp_path / "img" / f"{name}.png")
    lines = [PAGE, {"text": "words alone", "id": 12}, {"caption": "A na\u00efve dog", "image": "img/dog.png"}]
    write(tmp_path / "a.jsonl", *lines)
    write(tmp_path / "b.jsonl", {"image": "img/cat.png", "text": None, "source": None})
    return tmp_path


def write(path: Path, *records: Any) -> None:
    """A file of lines, with a blank one after each; bytes are written as they are."""
    lines = [r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in records]
    path.write_bytes(b"".join(line + b"\n \n" for line in lines))


def test_documents_in_their_order(root: Path) -> None:
    reader = JsonLines(root)
    page, words, dog, cat = (d for d in reader if isinstance(d, Document))
    assert [type(p) for p in page.parts] == [Text, Image, Text, Image] and page.text == "A cat and "
    assert [i.pixels.getpixel((0, 0)) for i in page.images] == [(255, 0, 0), (0, 0, 255)]
    assert (page.id, page.source) == ("page 7", "zoo")
    assert page.meta == {"license": "CC0-1.0", "question": "who?", "answers": ["both"]}
    assert (words.id, words.source, words.parts, words.meta) == ("12", "jsonl", (Text("words alone"),), {})
    assert dog.id == "a.jsonl:5" and [type(p) for p in dog.parts] == [Text, Image] and dog.text == "A na\u00efve dog"
    assert cat.id == "b.jsonl:1" and [type(p) for p in cat.parts] == [Image]
    assert list(JsonLines(root / "a.jsonl")) == [page, words, dog]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_pieces_are_the_whole(root: Path, size: int) -> None:
    reader = JsonLines(root)
    units = reader.units(size)
    assert sum(u.stop - u.start for u in units) == 8, "blank lines too"
    read = [d for unit in units for d in JsonLines(root).read(unit)]
    assert read == list(reader) and len(read) == 4


def test_a_last_line_without_an_end_counts(root: Path) -> None:
    (root / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}')
    assert [d.text for d in JsonLines(root / "a.jsonl") if isinstance(d, Document)] == ["one", "two"]
    (root / "a.jsonl").write_bytes(b"")
    assert list(JsonLines(root / "a.jsonl")) == []


def test_packed_files_are_read_in_one_piece(root: Path) -> None:
    expected = [d for d in JsonLines(root / "a.jsonl") if isinstance(d, Document)]
    (root / "c:1.jsonl.gz").write_bytes(gzip.compress((root / "a.jsonl").read_bytes()))
    packed = JsonLines(root / "c:1.jsonl.gz")
    assert packed.units() == [Unit("c:1.jsonl.gz")]
    assert [(d.parts, d.meta) for d in packed if isinstance(d, Document)] == [(d.parts, d.meta) for d in expected]
    assert [u.name for u in JsonLines(root).units()] == ["a.jsonl:0", "b.jsonl:0", "c:1.jsonl.gz"]


@pytest.mark.parametrize("cut", [0.5, 0.9])
def test_a_packed_file_that_is_cut_gives_what_is_before(root: Path, cut: float) -> None:
    lines = "".join(json.dumps({"text": f"{i} {i * 2654435761 % 10**9}"}) + "\n" for i in range(2000))
    data = gzip.compress(lines.encode())
    (root / "c.jsonl.gz").write_bytes(data[: int(len(data) * cut)])
    *read, last = JsonLines(root / "c.jsonl.gz")
    assert 0 < len(read) < 2000 and all(isinstance(d, Document) for d in read)
    assert isinstance(last, Unreadable) and last.id == "c.jsonl.gz"
    assert f"cannot be unpacked after line {len(read)} (" in last.reason and last.reason.endswith("; pack it again")


def test_a_packed_file_that_is_none(root: Path) -> None:
    (root / "c.jsonl.gz").write_bytes(b"<html>")
    (bad,) = JsonLines(root / "c.jsonl.gz")
    assert isinstance(bad, Unreadable) and "cannot be unpacked after line 0 (Not a gzipped file" in bad.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": ', "the line: is not readable JSON (Expecting value"),
        (b'{"text": "caf\xe9"}', "the line: is not readable JSON ('utf-8' codec can't decode byte 0xe9"),
        (b'{"text": "\\ud800"}', "the line has a lone surrogate U+D800, which is no character (at 10); take it out"),
        (b'{"text": "x", "score": NaN}', "the line: is not readable JSON (NaN is no JSON)"),
        (b"[" * 100_000, "the line: is nested too deep to be read; flatten it"),
        (["text"], "is list, not an object; write one document a line"),
        ({"words": "x"}, "document: has no 'parts', 'text', 'caption' or 'image'; give one of them"),
        ({"text": 7}, "document: 'text' is 7, must be a text"),
        ({"parts": {"text": "x"}}, "document: 'parts' is {'text': 'x'}, must be a list"),
        ({"parts": ["x"]}, "part 'x': must be an object with either 'text' or 'image'"),
        ({"parts": [{"text": "x", "image": "y"}]}, "must be an object with either 'text' or 'image'"),
        ({"text": "x", "source": 3}, "document: 'source' is 3, must be a text"),
        ({"image": "img/cow.png"}, "cow.png: no such file beside the annotations that name it"),
        ({"image": "img"}, "img: cannot be read (Is a directory)"),
        ({"image": "a.jsonl"}, "not a picture; give a PNG, JPEG or WebP file"),
        ({"image": "/etc/passwd"}, "picture: the file name '/etc/passwd' leads outside"),
        ({"image": "img/../../x.png"}, "picture: the file name 'img/../../x.png' leads outside"),
        ({"parts": [{"image": "a\0b"}]}, "picture: the file name 'a\\x00b' is no name"),
        ({"image": "x" * 5000}, "cannot be read (File name too long)"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_line_that_is_wrong_stands_in_its_place(root: Path, line: Any, reason: str, packed: bool) -> None:
    path = root / ("a.jsonl.gz" if packed else "a.jsonl")
    write(path, {"text": "before"}, line, {"text": "after"})
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    before, bad, after = JsonLines(path)
    assert (
        isinstance(before, Document)
        and isinstance(after, Document)
        and (before.text, after.text)
        == (
            "before",
            "after",
        )
    )
    assert isinstance(bad, Unreadable) and bad.id == f"{path.name}:3"
    assert bad.reason.startswith(f"{path.name}:3: ") and reason in bad.reason


def test_a_line_with_an_id_is_left_out_by_it(root: Path) -> None:
    write(root / "a.jsonl", {"id": "x 1", "image": "gone.png"}, {"id": True, "text": "y"})
    bad, good = JsonLines(root / "a.jsonl")
    assert isinstance(bad, Unreadable) and bad.id == "x 1" and bad.reason.startswith("a.jsonl:1: gone.png: no such")
    assert good.id == "a.jsonl:3", "true is no name"


def test_captions_of_any_length_are_passed_on(root: Path) -> None:
    write(root / "a.jsonl", {"text": ""}, {"text": "x" * 100_000}, {"parts": []})
    assert [d.text for d in JsonLines(root / "a.jsonl") if isinstance(d, Document)] == ["", "x" * 100_000, ""]


def test_it_is_recognised_by_its_name(root: Path) -> None:
    assert JsonLines.recognises(root) and JsonLines.recognises(root / "a.jsonl") and not JsonLines.splits(root)
    assert not JsonLines.recognises(root / "img") and not JsonLines.recognises(root / "img" / "cat.png")
    assert not JsonLines.recognises(root / "none.jsonl")


def test_what_is_wrong_with_all_of_it(root: Path) -> None:
    with pytest.raises(DataError, match="img': holds no .jsonl and no .jsonl.gz; give such a file, or a folder"):
        JsonLines(root / "img")
    with pytest.raises(DataError, match="JSON lines have no splits; leave @val away"):
        JsonLines(root, "val")
    reader = JsonLines(root)
    (root / "a.jsonl").unlink()
    with pytest.raises(DataError, match="a.jsonl': cannot be opened .No such file or directory.; check the file"):
        list(reader)


@pytest.mark.parametrize(
    ("record", "texts", "pictures"),
    [
        ({"image": "img/cat.png", "prompt": "A"}, ["A"], 1),
        ({"image": "img/cat.png", "captions": ["A", "B"]}, ["A", "B"], 1),
        ({"image": "img/cat.png", "caption_0": "A", "caption_1": "B", "url": "x"}, ["A", "B"], 1),
        ({"file_name": "img/cat.png", "text": "A"}, ["A"], 1),
        ({"image_path": "img/cat.png", "caption": "A"}, ["A"], 1),
        ({"images": ["img/cat.png", "img/dog.png"], "text": "A"}, ["A"], 2),
        ({"text": "A", "url": "http://x", "file_name": "page.html"}, ["A"], 0),
        ({"text": "A", "caption": "B", "image": "img/cat.png"}, ["A"], 1),
    ],
)
def test_names_that_people_give(root: Path, record: dict[str, Any], texts: list[str], pictures: int) -> None:
    write(root / "a.jsonl", {**record, "id": 7, "license": "CC0"})
    read = [d for d in JsonLines(root / "a.jsonl") if isinstance(d, Document)]
    assert [d.text for d in read] == texts and all(len(d.images) == pictures for d in read)
    assert [d.id for d in read] == (["7"] if len(texts) == 1 else [f"7/{i}" for i in range(len(texts))])
    assert all(
        d.meta["license"] == "CC0" and not {"image", "images", "prompt", "captions"} & d.meta.keys() for d in read
    )


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (
            {"image_url": "http://x/a.jpg", "caption": "A"},
            "its picture is an address alone ('image_url'), which is not",
        ),
        ({"url": "http://x/a.jpg", "caption": "A"}, "its picture is an address alone ('url'), which is not fetched"),
        (
            {"image": "img/cat.png", "conversations": []},
            "its words are 'conversations', which are no caption; give its",
        ),
        ({"image": "img/cat.png", "messages": [], "question": "Q"}, "its words are 'messages', which are no caption"),
        (
            {"prompt": "A", "completion": "B"},
            "document: has no 'parts', 'text', 'caption' or 'image'; give one of them",
        ),
        ({"text": "x", "n": 10**400}, "a whole number of 401 digits"),
        ({"image": None, "caption": "A"}, "its 'image' is null: words without the picture that they are of"),
        ({"image": "img/cat.png", "caption": {"en": "A"}}, "its 'caption' is neither a text nor a list of texts"),
    ],
)
def test_no_half_of_a_line_is_read(root: Path, record: dict[str, Any], reason: str) -> None:
    write(root / "a.jsonl", record)
    (bad,) = JsonLines(root / "a.jsonl")
    assert isinstance(bad, Unreadable) and reason in bad.reason


def test_questions_are_kept_for_tasks_and_told(root: Path) -> None:
    write(root / "a.jsonl", {"image": "img/cat.png", "question": "Q", "answers": ["A"]})
    reader = JsonLines(root / "a.jsonl")
    for _ in range(2):
        (document,) = reader
        assert isinstance(document, Document) and document.meta == {"question": "Q", "answers": ["A"]}
        assert reader.passed.json() == {
            f"{name!r}, words that are kept as meta alone": {"count": 1, "names": ["a.jsonl:1"]}
            for name in ("question", "answers")
        }


def test_lines_without_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "LINE", 1000)
    monkeypatch.setattr(base, "BLOCK", 64)
    lines = [b'{"text": "before"}', b'{"text": "' + b"x" * 2000 + b'"}', b'{"text": "' + b"y" * 900 + b'"}']
    (root / "a.jsonl").write_bytes(b"\n".join(lines))
    before, bad, after = JsonLines(root / "a.jsonl")
    assert isinstance(before, Document) and isinstance(after, Document) and after.text == "y" * 900
    assert bad == Unreadable("a.jsonl:2", "a.jsonl:2: has 2013 bytes, more than 1000; cut it into several lines")
    (root / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    before, bad = JsonLines(root / "b.jsonl.gz")
    assert isinstance(before, Document) and isinstance(bad, Unreadable)
    assert bad.reason == "b.jsonl.gz:2: has more than 1000 bytes; it and what follows is not read; cut it"


def test_a_file_of_lines_that_is_a_link_outside(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "x.jsonl"
    write(outside, {"text": "secret"})
    (root / "x.jsonl").symlink_to(outside)
    with pytest.raises(DataError, match="'x.jsonl' is a link that leads outside"):
        JsonLines(root)
    assert len(list(JsonLines(root / "x.jsonl"))) == 1, "it was given by name"
