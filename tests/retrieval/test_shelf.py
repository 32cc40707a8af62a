"""The store of documents: pictures keep their bytes or lose nothing, and it is read from threads and after a fork."""

from __future__ import annotations

import io
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from cm3.document import Document, Image, Text, Unreadable
from cm3.errors import CheckpointError
from cm3.retrieval.shelf import Draft, Record, Shelf, encode, pack


def noise(mode: str, size: tuple[int, int] = (13, 9)) -> PIL.Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    colour = PIL.Image.fromarray(values)
    if mode == "F":
        return PIL.Image.fromarray(np.random.default_rng(0).random((size[1], size[0]), np.float32))
    if mode.startswith("I"):
        deep = np.random.default_rng(0).integers(0, 1 << 16, (size[1], size[0]))
        return PIL.Image.fromarray(deep.astype(np.uint16 if ";" in mode else np.int32))
    return colour if mode == "RGBA" else colour.convert("RGB").convert(mode) if mode != "LA" else colour.convert("LA")


def packed(document: Document) -> Record:
    made = pack(document)
    assert not isinstance(made, Unreadable)
    return made[0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_of_a_file_keeps_its_bytes(tmp_path: Path, kind: str) -> None:
    noise("RGB").save(tmp_path / "picture", kind)
    data = (tmp_path / "picture").read_bytes()
    for image in (Image.open(tmp_path / "picture"), Image(data=data)):
        assert encode(image) == data


def test_one_that_was_drawn_on_does_not() -> None:
    buffer = io.BytesIO()
    noise("RGB").save(buffer, "JPEG")
    with PIL.Image.open(buffer) as opened:
        opened.putpixel((0, 0), (1, 2, 3))
        kept = encode(Image(opened))
        assert kept != buffer.getvalue() and Image(PIL.Image.open(io.BytesIO(kept))) == Image(opened)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"])
def test_other_pictures_lose_nothing(mode: str) -> None:
    made = noise(mode)
    assert made.mode == mode
    kept = encode(Image(made))
    got = PIL.Image.open(io.BytesIO(kept))
    assert (got.mode, got.size, got.tobytes()) == (made.mode, made.size, made.tobytes())


def test_a_mode_of_no_file_becomes_the_nearest_and_orientation_stays() -> None:
    assert PIL.Image.open(io.BytesIO(encode(Image(noise("HSV"))))).mode == "RGB"
    turned = noise("RGB")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()
    assert PIL.Image.open(io.BytesIO(encode(Image(turned)))).getexif()[0x0112] == 6


def test_gif_and_the_like_are_stored_again(tmp_path: Path) -> None:
    noise("RGB").save(tmp_path / "a.gif")
    image = Image.open(tmp_path / "a.gif")
    kept = encode(image)
    assert kept.startswith(b"\x89PNG")
    assert Image(PIL.Image.open(io.BytesIO(kept)).convert("RGB")) == Image(image.pixels.convert("RGB"))


def shelf_of(path: Path, *documents: Document) -> Shelf:
    draft = Draft(path)
    for document in documents:
        draft.put(packed(document))
    draft.commit()
    draft.close()
    return Shelf(path)


def test_documents_come_back_in_every_part(tmp_path: Path) -> None:
    picture, other = noise("RGB"), noise("L")
    made = [
        Document.of("one ", picture, " two", other, id="a", source="s", n=1, deep={"x": [1, None, "\u00e9"]}),
        Document.of(picture, id="b"),
        Document((Text(""), Text("\u00fc lone")), id="\u00fc"),
    ]
    shelf = shelf_of(tmp_path / "s.sqlite", *made)
    assert [shelf.document(row) for row in range(3)] == made
    assert shelf.document(0).meta == made[0].meta
    assert [shelf.row(i) for i in ("a", "b", "\u00fc", "c")] == [0, 1, 2, None]
    assert shelf.rows_of(["b", "x", "a"]) == {"a": 0, "b": 1} and shelf.ids_of([2, 0, 7]) == {0: "a", 2: "\u00fc"}
    assert list(shelf.ids()) == [(0, "a"), (1, "b"), (2, "\u00fc")]
    assert shelf.damage() == ""


def test_equal_pictures_are_stored_once(tmp_path: Path) -> None:
    big = noise("RGB", (200, 200))
    once = shelf_of(tmp_path / "one", Document.of(big, id="a"))
    five = shelf_of(tmp_path / "five", *(Document.of(f"caption {i}", big.copy(), id=str(i)) for i in range(5)))
    assert five.path.stat().st_size < once.path.stat().st_size + 10_000


def test_pictures_are_decoded_when_they_are_asked_for(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    noise("RGB", (64, 64)).save(buffer, "JPEG")
    shelf = shelf_of(tmp_path / "s", Document.of(Image(data=buffer.getvalue()), id="a"))
    got = shelf.document(0)
    assert getattr(got.images[0].pixels, "_im", 0) is None, "only the header was read"
    assert packed(got).parts == (buffer.getvalue(),), "so that another bank gets the same bytes"


def test_threads_and_forks(tmp_path: Path) -> None:
    shelf = shelf_of(tmp_path / "s", *(Document.of(f"text {i}", id=str(i)) for i in range(100)))
    assert shelf.row("0") == 0
    wrong: list[int] = []

    def look() -> None:
        wrong.extend(i for i in range(100) if shelf.row(str(i)) != i)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue()
    child = context.Process(target=lambda: queue.put([shelf.row(str(i)) for i in range(100)]))
    child.start()
    assert queue.get(timeout=60) == list(range(100)) and not wrong
    child.join()
    assert shelf.row("5") == 5


def test_a_draft_keeps_what_was_committed(tmp_path: Path) -> None:
    draft = Draft(tmp_path / "s")
    draft.put(packed(Document.of("a", id="a", source="s")))
    draft.skip(Unreadable("bad", "why"))
    draft.put(packed(Document.of("b", id="b")))
    draft.commit()
    draft.put(packed(Document.of("c", id="c")))
    draft.close()
    again = Draft(tmp_path / "s")
    assert list(again.journal()) == [Record("a", "s", "{}", ("a",)), "bad", Record("b", "", "{}", ("b",))]
    assert (again.rows, again.skips, again.taken(["a", "c"])) == (2, 1, ["a"])
    assert again.skipped() == [Unreadable("bad", "why")]
    again.close()


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"no database" * 100)
    with pytest.raises(CheckpointError, match="not readable .*; restore it from a copy"):
        Shelf(tmp_path / "s")
    with pytest.raises(CheckpointError, match="not readable .*; delete"):
        Draft(tmp_path / "s")
    with pytest.raises(CheckpointError, match="not readable .unable to open"):
        Shelf(tmp_path / "nowhere")
