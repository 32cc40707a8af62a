"""Documents as stores keep them: pictures keep their bytes or lose nothing, read from threads and after a fork."""

from __future__ import annotations

import io
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hashing import Hashing

from cm3.document import Document, Image, Text
from cm3.retrieval.memory import Memory
from cm3.store.record import Picture, encode, record_of
from cm3.store.store import Store


def noise(mode: str, size: tuple[int, int] = (13, 9)) -> PIL.Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    colour = PIL.Image.fromarray(values)
    if mode == "F":
        return PIL.Image.fromarray(np.random.default_rng(0).random((size[1], size[0]), np.float32))
    if mode.startswith("I"):
        deep = np.random.default_rng(0).integers(0, 1 << 16, (size[1], size[0]))
        return PIL.Image.fromarray(deep.astype(np.uint16 if ";" in mode else np.int32))
    return colour if mode == "RGBA" else colour.convert("RGB").convert(mode) if mode != "LA" else colour.convert("LA")


def kept(picture: PIL.Image.Image) -> bytes:
    (made,) = record_of(Document.of(picture, id="a"))[0].pictures
    return made.data


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_an_image_of_a_file_keeps_its_bytes(tmp_path: Path, kind: str) -> None:
    noise("RGB").save(tmp_path / "picture", kind)
    data = (tmp_path / "picture").read_bytes()
    for image in (Image.open(tmp_path / "picture"), Image(data=data)):
        record, document = record_of(Document.of(image, id="a"))
        (picture,) = record.pictures
        assert (picture.data, picture.digest) == (data, image.digest) and document.images[0] == image


def test_one_that_was_drawn_on_does_not() -> None:
    buffer = io.BytesIO()
    noise("RGB").save(buffer, "JPEG")
    with PIL.Image.open(buffer) as opened:
        opened.putpixel((0, 0), (1, 2, 3))
        data = kept(opened)
        assert data != buffer.getvalue() and Image(PIL.Image.open(io.BytesIO(data))) == Image(opened)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"])
def test_other_pictures_lose_nothing(mode: str) -> None:
    made = noise(mode)
    assert made.mode == mode
    got = PIL.Image.open(io.BytesIO(kept(made)))
    assert (got.mode, got.size, got.tobytes()) == (made.mode, made.size, made.tobytes())


def test_a_mode_of_no_file_becomes_the_nearest_and_orientation_stays() -> None:
    assert PIL.Image.open(io.BytesIO(encode(Image(noise("HSV"))))).mode == "RGB"
    turned = noise("RGB")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()
    assert PIL.Image.open(io.BytesIO(encode(Image(turned)))).getexif()[0x0112] == 6


def store_of(path: Path, *documents: Document) -> Store:
    Memory.build(path, documents, Hashing())
    return Store.open(path)


def test_documents_come_back_in_every_part(tmp_path: Path) -> None:
    picture, other = noise("RGB"), noise("L")
    made = [
        Document.of("one ", picture, " two", other, id="a", source="s", n=1, deep={"x": [1, None, "\u00e9"]}),
        Document.of(picture, id="b"),
        Document((Text(""), Text("\u00fc lone")), id="\u00fc"),
    ]
    store = store_of(tmp_path / "s", *made)
    assert [store.document(row) for row in range(3)] == made
    assert store.document(0).meta == made[0].meta
    assert [store.find(i) for i in ("a", "b", "\u00fc", "c")] == [[0], [1], [2], []]
    assert list(store.ids()) == ["a", "b", "\u00fc"]
    assert store.about(0).pictures == tuple(p.digest.hex() for p in record_of(made[0])[0].pictures)
    store.verify()


def test_equal_pictures_are_stored_once(tmp_path: Path) -> None:
    big = noise("RGB", (200, 200))
    store_of(tmp_path / "one", Document.of(big, id="a"))
    store_of(tmp_path / "five", *(Document.of(f"caption {i}", big.copy(), id=str(i)) for i in range(5)))
    sizes = [(tmp_path / name / "shards/00000.pictures").stat().st_size for name in ("one", "five")]
    assert sizes[0] == sizes[1] > 10_000


def test_pictures_are_decoded_when_they_are_asked_for(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    noise("RGB", (64, 64)).save(buffer, "JPEG")
    store = store_of(tmp_path / "s", Document.of(Image(data=buffer.getvalue()), id="a"))
    got = store.document(0)
    assert getattr(got.images[0].pixels, "_im", 0) is None, "only the header was read"
    (part,) = record_of(got)[0].parts
    assert isinstance(part, Picture) and part.data == buffer.getvalue(), "so that another store gets the same bytes"


def test_threads_and_forks(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", *(Document.of(f"text {i}", id=str(i)) for i in range(100)))
    assert store.number("0") == 0
    wrong: list[int] = []

    def look() -> None:
        wrong.extend(i for i in range(100) if store.number(str(i)) != i)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue()
    child = context.Process(target=lambda: queue.put([store.number(str(i)) for i in range(100)]))
    child.start()
    assert queue.get(timeout=60) == list(range(100)) and not wrong
    child.join()
    assert store.document(5).text == "text 5"
