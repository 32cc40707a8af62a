"""Folders as people have them: what belongs together is read together, what is not read is told, never half of it."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from cm3.document import Document, Unreadable
from cm3.errors import DataError
from cm3.read import base
from cm3.read.find import open_reader, recognise
from cm3.read.picture_folder import Folder
from cm3.read.walk import HIDDEN, LINKED, Passed, walk


def picture(format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (6, 4), "red").save(buffer, format)
    return buffer.getvalue()


PNG = picture()


def lay(root: Path, files: dict[str, bytes | str]) -> Path:
    """A folder of these files."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def read(root: Path) -> dict[str, Any]:
    """Id -> text and number of pictures, or the reason."""
    found = list(Folder(root))
    assert len({d.id for d in found}) == len(found)
    return {d.id: (d.text, len(d.images)) if isinstance(d, Document) else d.reason for d in found}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.png": PNG, "a.txt": "A", "b.PNG": PNG, "b.TXT": "B"}, {"a.png": "A", "b.PNG": "B"}),
        ({"IMG_1.PNG": PNG, "img_1.txt": "A"}, {"IMG_1.PNG": "A"}),
        ({"cafe\u0301.png": PNG, "caf\u00e9.txt": "A"}, {"cafe\u0301.png": "A"}),
        ({"a.png": PNG, "a.jpg": PNG, "a.txt": "A"}, {"a.jpg": "A", "a.png": "A"}),
        (
            {"a.png": PNG, "a.png.txt": "A", "b.png": PNG, "b.png.json": '{"description": "B"}'},
            {"a.png": "A", "b.png": "B"},
        ),
        ({"a.png": PNG, "a.caption": "A", "b.png": PNG, "b.text": "B"}, {"a.png": "A", "b.png": "B"}),
        (
            {"a.jfif": picture("JPEG"), "a.txt": "A", "b.ppm": picture("PPM"), "b.txt": "B"},
            {"a.jfif": "A", "b.ppm": "B"},
        ),
        (
            {"a.webp": picture("WEBP"), "a.txt": "A", "b.gif": picture("GIF"), "b.txt": "B"},
            {"a.webp": "A", "b.gif": "B"},
        ),
        ({"10_name/1.png": PNG, "10_name/1.txt": "A", "10_name/1.npz": "x"}, {"10_name/1.png": "A"}),
        ({"a.png": PNG, "a.json": '{"text": "A"}', "b.png": PNG, "b.json": '"B"'}, {"a.png": "A", "b.png": "B"}),
        ({"a.png": PNG, "a.json": '["one", "two"]'}, {"a.png": "one\ntwo"}),
        ({"images/a.png": PNG, "captions/a.txt": "A"}, {"images/a.png": "A"}),
        (
            {"x/images/a.png": PNG, "x/texts/a.txt": "A", "y/images/a.png": PNG},
            {"x/images/a.png": "A", "y/images/a.png": ""},
        ),
        ({"cat/1.png": PNG, "dog/1.png": PNG, "dog/1.txt": "D"}, {"cat/1.png": "", "dog/1.png": "D"}),
        ({"a.png": PNG, "a.txt": b"\xff\xfe" + "na\u00efve".encode("utf-16-le")}, {"a.png": "na\u00efve"}),
        ({"a.png": PNG, "a.txt": b"\xef\xbb\xbfA\r\n"}, {"a.png": "A"}),
    ],
)
def test_what_belongs_together(tmp_path: Path, files: dict[str, bytes | str], expected: dict[str, str]) -> None:
    assert read(lay(tmp_path, files)) == {name: (text, 1) for name, text in expected.items()}


@pytest.mark.parametrize(
    ("files", "id", "reason"),
    [
        ({"a.heic": "x", "a.txt": "A"}, "a.heic", "files of this kind (.heic) are not read; .* for a.txt is of it"),
        ({"a.HEIC": "x"}, "a.HEIC", "files of this kind (.heic) are not read; save it as PNG or JPEG"),
        ({"a.mp4": "x", "a.txt": "A", "a.json": "{}"}, "a.mp4", "files of this kind (.mp4) are not read"),
        ({"a.jpg.part": "x", "a.txt": "A"}, "a.jpg.part", "files of this kind (.part) are not read; .* for a.txt is"),
        ({"i/a.png": PNG, "t/a.txt": "A", "t/b.txt": "B"}, "t/b.txt", "t/b.txt: has no picture of its name in i/"),
        ({"a.png": PNG, "a.txt": "wide".encode("utf-16-le")}, "a.png", "a.txt: has zero bytes, so it is no text"),
        ({"a.png": PNG, "a.json": "{"}, "a.png", "a.json: is not readable JSON"),
        ({"a.png": PNG, "a.json": '{"caption": {"en": "A"}}'}, "a.png", "its 'caption' is neither a text nor a list"),
        ({"b.jpeg": PNG, "b.jpg.txt": "B"}, "b.jpg.txt", "b.jpg.txt: is of b.jpg, which is not there; put the picture"),
        ({"captions.txt": "a.png,A\n", "a.png": PNG}, "captions.txt", "is a list of captions"),
        ({"a.png": PNG, "a.json": '{"n": ' + "1" * 400 + "}"}, "a.png", "a whole number of 400 digits"),
        ({"a.png": PNG, "a.json": "[" * 100_000}, "a.png", "a.json: is nested too deep"),
        ({"a.txt": "A", "a.json": '{"url": "http://x/a.jpg", "caption": "A"}'}, "a.txt", "is of a picture at an addre"),
        ({"metadata.jsonl": '{"file_name": "a.png"}', "a.png": PNG}, "metadata.jsonl", "is read as imagefolder:"),
        ({"captions.txt": "image,caption\na.png,A\n", "a.png": PNG}, "captions.txt", "is a list of captions"),
        ({"a.txt": "x" * (base.TEXT + 1)}, "a.txt", "a.txt: has 1048577 bytes, more than 1048576; cut it into pieces"),
    ],
)  # fmt: skip
def test_what_is_not_read_whole_is_unreadable(
    tmp_path: Path, files: dict[str, bytes | str], id: str, reason: str
) -> None:
    found = read(lay(tmp_path, files))
    first, _, rest = reason.partition(" .* ")
    assert first in found[id] and rest in found[id]
    assert not [text for text, pictures in (v for v in found.values() if isinstance(v, tuple)) if text and not pictures]


def test_what_img2dataset_says_of_a_file(tmp_path: Path) -> None:
    told = {
        "caption": "A",
        "LICENSE": "CC0",
        "status": "success",
        "error_message": None,
        "width": 6,
        "nan": float("nan"),
    }
    failed = {"caption": "B", "status": "failed_to_resize", "error_message": "x"}
    root = lay(
        tmp_path, {"0.png": PNG, "0.txt": "A", "0.json": json.dumps(told), "1.png": PNG, "1.json": json.dumps(failed)}
    )
    good, bad = Folder(root, license="mine")
    assert isinstance(good, Document) and good.meta == {"license": "CC0", "width": 6} and good.text == "A"
    assert isinstance(bad, Unreadable) and "'failed_to_resize', not 'success': the picture was never" in bad.reason


def test_what_is_passed_over_is_counted_with_names(tmp_path: Path) -> None:
    hidden = (
        ".DS_Store",
        "._a.png",
        ".git/x.txt",
        ".ipynb_checkpoints/a.png",
        "__MACOSX/a.png",
        "Thumbs.db",
        "desktop.ini",
    )
    others = {
        "a.npz": "",
        "notes": "",
        "stats.json": "{}",
        "a.caption": "A2",
        "b.png": PNG,
        "b.json": "[1]",
        "c.txt": " ",
    }
    root = lay(tmp_path, {"a.png": PNG, "a.txt": "A", **dict.fromkeys(hidden, ""), **others})
    reader = Folder(root)
    assert [d.id for d in reader] == ["a.png", "b.png", "c.txt"]
    assert reader.passed.json() == {
        HIDDEN: {"count": 7, "names": [".DS_Store", "._a.png", ".git/", ".ipynb_checkpoints/", "Thumbs.db"]},
        "a second text of one picture": {"count": 1, "names": ["a.caption"]},
        ".npz, which is not read": {"count": 1, "names": ["a.npz"]},
        "files without an ending, which is not read": {"count": 1, "names": ["notes"]},
        ".json without a picture or words of its name": {"count": 1, "names": ["stats.json"]},
        ".json that is list, neither an object nor captions": {"count": 1, "names": ["b.json"]},
        "an empty caption": {"count": 1, "names": ["c.txt"]},
    }
    list(reader)
    assert reader.passed.counts.total() == 13, "reading again counts nothing twice"


def test_links(tmp_path: Path) -> None:
    outside = lay(tmp_path / "outside", {"secret.txt": "secret", "p.png": PNG})
    root = lay(tmp_path / "root", {"in/a.png": PNG, "in/a.txt": "A", "d.txt": "D", "e.txt": "E"})
    for name, target in {
        "loop": ".", "out": str(outside), "b.txt": str(outside / "secret.txt"), "d.png": str(outside / "p.png"),
        "e.png": "nowhere", "f.png": "in/a.png",
    }.items():  # fmt: skip
        os.symlink(target, root / name)
    found = read(root)
    assert found.pop("in/a.png") == ("A", 1) and found.pop("f.png") == ("", 1)
    assert all("is a link that leads outside" in found[name] for name in ("b.txt", "d.png"))
    assert "e.png: no such file" in found["e.png"] and len(found) == 3, "no words without their picture"
    assert Folder(root).passed.json() == {LINKED: {"count": 2, "names": ["loop/", "out/"]}}


def test_a_pipe_and_a_file_with_holes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "a.png")
    with open(tmp_path / "b.png", "wb") as file:
        file.truncate(2 * base.LARGEST)
    first, second = Folder(tmp_path)
    assert (
        isinstance(first, Unreadable)
        and first.reason == "a.png: is no file but a pipe or device; put the file itself there"
    )
    assert (
        isinstance(second, Unreadable)
        and f"b.png: has {2 * base.LARGEST} bytes, more than {base.LARGEST}" in second.reason
    )


def test_mended_files_are_looked_at_again(tmp_path: Path) -> None:
    root = lay(tmp_path, {"a.heic": "x", "a.txt": "A", "b.png": PNG, "b.txt": b"\xe9"})
    assert all(isinstance(reason, str) for reason in read(root).values())
    (root / "a.heic").unlink()
    lay(root, {"a.png": PNG, "b.txt": "B"})
    assert read(root) == {"a.png": ("A", 1), "b.png": ("B", 1)}


def test_an_empty_result_says_what_was_there(tmp_path: Path) -> None:
    lay(tmp_path, {".a.png": PNG, "b.csv": "x"})
    with pytest.raises(DataError, match=r"holds no picture.*passed over: 1 x hidden, or of the system, 1 x \.csv"):
        Folder(tmp_path)
    assert recognise(tmp_path) == []


def test_walks_are_in_order_and_as_deep_as_asked(tmp_path: Path) -> None:
    lay(tmp_path, {"b/y/z.txt": "", "b/a.txt": "", "a/c.txt": "", "d.txt": ""})
    assert list(walk(tmp_path)) == [("", ["d.txt"]), ("a/", ["c.txt"]), ("b/", ["a.txt"]), ("b/y/", ["z.txt"])]
    assert [folder for folder, _ in walk(tmp_path, depth=1)] == ["", "a/", "b/"]
    with pytest.raises(DataError, match="nowhere': cannot be listed .No such file or directory.; check the folder"):
        list(walk(tmp_path / "nowhere"))
    one, two = Passed(), Passed()
    two.add("kind", "x", 3)
    two.add("kind", "y")
    one.add("kind", "x")
    one.update(two)
    assert one.json() == {"kind": {"count": 5, "names": ["x", "y"]}}


@pytest.mark.parametrize("kind", ["vqa2", "okvqa", "vizwiz", "coco"])
def test_no_folder_of_pictures_is_refused_until_it_is_there(tmp_path: Path, kind: str) -> None:
    asked = {"questions": [{"question_id": 1, "image_id": 1, "question": "What?"}]}
    answers = {"annotations": [{"question_id": 1, "image_id": 1, "answers": [{"answer": "a"}]}]}
    captions = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"id": 1, "image_id": 1, "caption": "A"}]}
    vizwiz = [{"image": "VizWiz_train_1.png", "question": "What?", "answers": [{"answer": "a"}]}]
    names = "{}OpenEnded_mscoco_train2014_questions.json", "{}mscoco_train2014_annotations.json"
    files, folder = {
        "vqa2": ({names[0].format("v2_"): asked, names[1].format("v2_"): answers}, "train2014"),
        "okvqa": ({names[0].format(""): asked, names[1].format(""): answers}, "train2014"),
        "vizwiz": ({"Annotations/train.json": vizwiz}, "train"),
        "coco": ({"annotations/captions_train2017.json": captions}, "train2017"),
    }[kind]  # fmt: skip
    lay(tmp_path, {name: json.dumps(value) for name, value in files.items()})
    with pytest.raises(DataError, match=f"has no folder {folder}.*; put the pictures there"):
        open_reader(f"{kind}:{tmp_path}")
    (tmp_path / folder).mkdir()
    (missing,) = open_reader(f"{kind}:{tmp_path}")
    assert isinstance(missing, Unreadable) and "no such file beside the annotations" in missing.reason
    assert kind == "coco" or f"looked in {folder}" in missing.reason
    name = {"vizwiz": "VizWiz_train_1.png", "coco": "1.png"}.get(kind, "COCO_train2014_000000000001.jpg")
    (tmp_path / folder / name).write_bytes(PNG)
    (found,) = open_reader(f"{kind}:{tmp_path}")
    assert isinstance(found, Document) and len(found.images) == 1
