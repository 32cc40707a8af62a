"""Captions in lists: the hub's ImageFolder, Flickr8k, Flickr30k's table, DiffusionDB, kohya's metadata."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import DataError
from cm3.read.find import open_reader, recognise
from cm3.read.imagefolder import ImageFolder, is_list


def png() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (6, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()


def lay(root: Path, files: dict[str, str], *pictures: str) -> Path:
    """A folder of these files and pictures."""
    for name in (*files, *pictures):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name].encode() if name in files else png())
    return root


def read(root: Path, split: str | None = None) -> dict[str, str]:
    """Id -> text of a document with its picture, or the reason."""
    found = list(ImageFolder(root, split))
    assert all(len(d.images) == 1 for d in found if isinstance(d, Document))
    assert len({d.id for d in found}) == len(found)
    return {d.id: d.text if isinstance(d, Document) else d.reason for d in found}


def test_the_layout_of_the_hub(tmp_path: Path) -> None:
    lines = [
        {"file_name": "a.png", "text": " A boat ", "license": "CC0-1.0", "score": 0.5},
        {"file_name": "trip/b.png", "text": "At sea", "label": 3},
    ]
    root = lay(tmp_path, {"metadata.jsonl": "\n".join(map(json.dumps, lines)) + "\n\n"}, "a.png", "trip/b.png", "c.png")
    assert recognise(root)[0] == "imagefolder"
    reader = open_reader(str(root))
    first, second = reader
    assert isinstance(first, Document) and isinstance(second, Document)
    assert [type(part) for part in first.parts] == [Text, Image] and first.text == "A boat"
    assert (first.id, first.source, first.meta) == ("a.png", tmp_path.name, {"license": "CC0-1.0", "score": 0.5})
    assert (second.id, second.text, second.meta) == ("trip/b.png", "At sea", {"label": 3})
    assert reader.passed.json() == {"a picture that no line names": {"count": 1, "names": ["c.png"]}}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "metadata.csv",
            'file_name,text\na.png,"A boat, at sea"\nb.png,B\n',
            {"a.png": "A boat, at sea", "b.png": "B"},
        ),
        ("metadata.csv", '\ufefffile_name,text\r\na.png,"two\nlines"\r\n', {"a.png": "two\nlines"}),
        ("metadata.tsv", "text\tfile_name\nA\ta.png\n", {"a.png": "A"}),
        (
            "captions.txt",
            "image,caption\na.png,A dog\na.png,Two , dogs\n",
            {"a.png#0": "A dog", "a.png#1": "Two , dogs"},
        ),
        ("Flickr8k.token.txt", "a.png#0\tA\na.png#1\tB\n", {"a.png#0": "A", "a.png#1": "B"}),
        ("results.csv", "image_name| comment_number| comment\na.png| 0| A , b .\n", {"a.png": "A , b ."}),
        ("captions.tsv", "a.png\tA\nb.png\tB\n", {"a.png": "A", "b.png": "B"}),
        ("part-000001.json", '{"a.png": {"p": "A", "se": 3}}', {"a.png": "A"}),
        ("meta_cap.json", '{"a.png": {"caption": "A", "tags": "x"}}', {"a.png": "A"}),
        ("captions.json", '{"a.png": "A", "b.png": ["B", "C"]}', {"a.png": "A", "b.png#0": "B", "b.png#1": "C"}),
        ("captions.json", '[{"file_name": "a.png", "caption": "A"}]', {"a.png": "A"}),
        ("metadata.jsonl", '{"image_file_name": "a.png", "file_names": null, "text": "A"}', None),
        ("metadata.jsonl", '{"file_name": ".\\\\a.png", "prompt": "A"}', {"a.png": "A"}),
    ],
)
@pytest.mark.parametrize("folder", ["", "Images/"])
def test_lists_as_people_write_them(
    tmp_path: Path, name: str, content: str, expected: dict[str, str] | None, folder: str
) -> None:
    root = lay(tmp_path, {name: content}, f"{folder}a.png", f"{folder}b.png")
    if expected is None:
        (bad,) = ImageFolder(root)
        assert (
            isinstance(bad, Unreadable) and "its 'file_names' is None, which must be the name of one pict" in bad.reason
        )
        return
    assert ImageFolder.recognises(root)
    assert read(root) == {folder + id: text for id, text in expected.items()}


@pytest.mark.parametrize(
    ("line", "id", "reason"),
    [
        ("{", "metadata.jsonl:2", "metadata.jsonl:2: is not readable JSON"),
        ("[" * 100_000, "metadata.jsonl:2", "metadata.jsonl:2: is nested too deep"),
        ('{"n": ' + "1" * 400 + "}", "metadata.jsonl:2", "a whole number of 400 digits"),
        ('{"file_name": "\\ud800"}', "metadata.jsonl:2", "has a lone surrogate U+D800"),
        ("[1]", "metadata.jsonl:2", "metadata.jsonl:2: is list, not an object"),
        ('{"text": "B"}', "metadata.jsonl:2", "names no pictures; give it one 'file_name'"),
        ('{"file_name": 7, "text": "B"}', "metadata.jsonl:2", "its 'file_name' is 7, which must be the name of one"),
        ('{"file_name": "b.png", "text": 7}', "metadata.jsonl:2", "its 'text' is neither a text nor a list of texts"),
        (
            '{"file_name": "b.png", "messages": []}',
            "metadata.jsonl:2",
            "its words are 'messages', which are no caption",
        ),
        ('{"file_name": "b.png", "status": "failed_to_download"}', "metadata.jsonl:2", "the picture was never fetched"),
        ('{"file_name": "gone.png", "text": "B"}', "gone.png", "gone.png: no such file beside the annotations"),
        ('{"file_name": "../b.png", "text": "B"}', "../b.png", "the file name '../b.png' leads outside"),
        ('{"file_name": "/etc/b.png", "text": "B"}', "/etc/b.png", "the file name '/etc/b.png' leads outside"),
    ],
)
def test_a_line_that_is_wrong_stands_in_its_place(tmp_path: Path, line: str, id: str, reason: str) -> None:
    good = '{"file_name": "a.png", "text": "A"}\n'
    root = lay(tmp_path, {"metadata.jsonl": good + line + "\n" + good.replace("A", "C")}, "a.png")
    found = read(root)
    assert list(found) == ["a.png#0", id, "a.png#1"] and reason in found[id]


def test_lines_of_tables_that_are_wrong(tmp_path: Path) -> None:
    table = "file_name,text,label\na.png,A,1\nb.png\nc.png,C,2,3\n"
    found = read(lay(tmp_path / "csv", {"metadata.csv": table}, "a.png"))
    assert found["a.png"] == "A" and "has 1 fields, the header has 3" in found["metadata.csv:3"]
    assert "has 4 fields, the header has 3" in found["metadata.csv:4"], "a caption with commas may be in the middle"
    token = "a.png#0\tA\n" * 60 + "no tab\n"
    found = read(lay(tmp_path / "token", {"Flickr8k.token.txt": token}, "a.png"))
    assert len(found) == 61 and "is not 'NAME.jpg#0<tab>caption': 'no tab'" in found["Flickr8k.token.txt:61"]


def test_splits_are_folders_so_named(tmp_path: Path) -> None:
    line = "file_name,text\na.png,"
    files = {"train/metadata.csv": line + "A", "test/metadata.csv": line + "B"}
    root = lay(tmp_path, files, "train/a.png", "test/a.png")
    assert ImageFolder.splits(root) == ("train", "test")
    assert read(root) == {"train/a.png": "A"} and read(root, "test") == {"test/a.png": "B"}
    assert [d.meta["split"] for d in ImageFolder(root, "test") if isinstance(d, Document)] == ["test"]
    with pytest.raises(DataError, match="has no split 'val'; it has train, test"):
        ImageFolder(root, "val")
    lay(root, {"other/metadata.csv": line + "C"}, "other/a.png")
    assert ImageFolder.splits(root) == () and len(read(root)) == 3
    with pytest.raises(DataError, match="has no split 'test'; it has no splits"):
        ImageFolder(root, "test")


def test_of_two_lists_in_a_folder_the_hubs_is_read(tmp_path: Path) -> None:
    files = {"captions.txt": "image,caption\na.png,B\n", "metadata.csv": "file_name,text\na.png,A\n", "x.npy": ""}
    reader = ImageFolder(lay(tmp_path, files, "a.png"))
    assert read(tmp_path) == {"a.png": "A"}
    assert {kind: told["names"] for kind, told in reader.passed.json().items()} == {
        "a second list beside metadata.csv": ["captions.txt"],
        ".npy, which is not read": ["x.npy"],
    }
    parts = {f"part-00000{i}.json": json.dumps({f"{i}.png": {"p": f"P{i}"}}) for i in range(2)}
    assert read(lay(tmp_path / "db", parts, "0.png", "1.png")) == {"0.png": "P0", "1.png": "P1"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.txt", 'a.png,A boat, at sea\nb.png,"A ""big"" boat"\n'),
        ("captions.txt", 'a.png | A boat, at sea\nb.png | A "big" boat\n'),
        ("descriptions.txt", 'a.png\tA boat, at sea\nb.png\tA "big" boat\n'),
    ],
)
def test_lists_without_a_header(tmp_path: Path, name: str, content: str) -> None:
    root = lay(tmp_path, {name: content}, "a.png", "b.png")
    assert ImageFolder.recognises(root) and read(root) == {"a.png": "A boat, at sea", "b.png": 'A "big" boat'}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "id,label\n1,2\n"),
        ("labels.txt", "a.png,3\n"),
        ("captions.txt", "a.png\n"),
        ("metadata.jsonl", '{"text": "words alone"}'),
        ("captions.txt", "A boat, at sea\n"),
        ("captions.json", '{"images": [], "annotations": []}'),
        ("notes.txt", "image,caption\na.png,A\n"),
        ("Flickr8k.lemma.token.txt", "a.png#0\tA\n"),
    ],
)
def test_other_files_are_no_lists(tmp_path: Path, name: str, content: str) -> None:
    root = lay(tmp_path, {name: content}, "a.png")
    assert not is_list(root / name) and not ImageFolder.recognises(root)
    with pytest.raises(DataError, match="has no metadata.jsonl, metadata.csv or captions.txt that names pictures"):
        ImageFolder(root)


def test_an_entry_that_is_no_text_costs_itself_alone(tmp_path: Path) -> None:
    found = read(
        lay(tmp_path, {"captions.json": '{"a.png": "A", "b.png": "\\ud800", "\\ud800": "C"}'}, "a.png", "b.png")
    )
    assert found.pop("a.png") == "A" and len(found) == 2
    assert all(" has a lone surrogate U+D800, which is no character" in reason for reason in found.values())


def test_lists_that_are_damaged_or_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay(tmp_path, {"captions.json": '{"a.png": "A"'}, "a.png")
    with pytest.raises(DataError, match="captions.json: is not readable JSON"):
        ImageFolder(root)
    lay(root, {"captions.json": "x", "metadata.csv": "file_name,text\n"})
    with pytest.raises(DataError, match="metadata.csv': has no line that names a picture; check the file"):
        ImageFolder(root)
    monkeypatch.setattr("cm3.read.imagefolder.MOST", 10)
    with pytest.raises(DataError, match="metadata.csv: has 15 bytes, more than 10; cut it into pieces"):
        ImageFolder(root)


def test_what_is_words_and_is_not_read_is_told(tmp_path: Path) -> None:
    line: dict[str, Any] = {"file_name": "a.png", "text": "A", "blip_caption": "B", "question": "C", "width": 3}
    reader = ImageFolder(lay(tmp_path, {"metadata.jsonl": json.dumps(line)}, "a.png"))
    (document,) = reader
    assert isinstance(document, Document) and document.meta == {"blip_caption": "B", "question": "C", "width": 3}
    assert list(reader.passed.json()) == [
        f"'{n}', words that are kept as meta alone" for n in ("blip_caption", "question")
    ]
