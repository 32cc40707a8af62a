"""Pictures as they are found: every kind becomes upright RGB, and every damaged one is refused, never a crash."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from cm3.errors import DataError
from cm3.picture import LIMIT, open_picture, rgb

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]


def noise(width: int = 48, height: int = 32) -> PIL.Image.Image:
    """A reproducible RGB picture."""
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image: PIL.Image.Image, format: str, **settings: object) -> bytes:
    """The bytes of its file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file by hand: `depth` bits, `colour` 0 grey or 2 RGB, `rows` with their filter bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "picture of 0 bytes: is empty; save it again"),
        (b"<html>404</html>", "picture of 16 bytes: not a picture; give a PNG, JPEG or WebP file"),
        (saved(noise(), "JPEG")[:3], "picture of 3 bytes: "),
        (saved(noise(), "JPEG")[:100], "picture of 100 bytes: cannot be read"),
        (saved(noise(), "WEBP")[:200], "picture of 200 bytes: "),
        (png(30_000, 30_000, 8, 2, b""), f"more pixels than {LIMIT} .*; scale it down"),
    ],
    ids=["zero bytes", "a web page", "first bytes", "cut in the header", "cut WebP", "decompression bomb"],
)
def test_what_is_no_picture_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as told:
        open_picture(data)
    assert "\n" not in str(told.value)


def test_the_limit_is_ours_where_pillow_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(DataError, match=f"picture of 30000 x 30000 pixels: more than {LIMIT}; scale it down"):
        open_picture(png(30_000, 30_000, 8, 2, b""))


def test_a_large_picture_below_the_limit_is_opened_without_a_warning() -> None:
    assert open_picture(png(10_000, 10_000, 8, 2, b"")).size == (10_000, 10_000)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_a_cut_picture_is_refused_whenever_it_is_asked_for(format: str) -> None:
    data = saved(noise(), format)
    image = open_picture(data[: len(data) * 3 // 4])
    for _ in range(2):
        with pytest.raises(DataError, match="cannot be read .*; save it again as PNG or JPEG"):
            rgb(image)


@pytest.mark.parametrize("format", FORMATS)
def test_damage_anywhere_is_no_crash(format: str) -> None:
    data, rng = saved(noise(), format), np.random.default_rng(1)
    for _ in range(40):
        spoilt = np.frombuffer(data, np.uint8).copy()
        spoilt[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        try:
            made = rgb(open_picture(spoilt.tobytes()[: int(rng.integers(1, len(data) + 1))]))
        except DataError:
            continue
        assert made.mode == "RGB"


def test_cmyk_jpeg() -> None:
    data = saved(PIL.Image.new("RGB", (16, 16), (200, 40, 60)).convert("CMYK"), "JPEG", quality=95)
    image = open_picture(data)
    assert image.mode == "CMYK"
    assert np.abs(np.asarray(rgb(image)).astype(int) - (200, 40, 60)).max() <= 8


def test_sixteen_bits() -> None:
    values = np.linspace(0, 65535, 256).round().astype(np.uint16)
    grey = open_picture(saved(PIL.Image.fromarray(values.reshape(16, 16)), "PNG"))
    assert (np.asarray(rgb(grey))[..., 0].ravel() == np.arange(256)).all()
    row = b"\0" + np.repeat(values[:, None], 3, 1).astype(">u2").tobytes()
    colour = open_picture(png(256, 1, 16, 2, row))
    assert np.abs(np.asarray(rgb(colour))[0, :, 2].astype(int) - np.arange(256)).max() <= 1


def test_palettes() -> None:
    image = PIL.Image.new("P", (8, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 200])
    image.paste(0, (0, 0, 4, 4))
    for transparency, left in ((None, (0, 0, 0)), (0, (255, 255, 255)), (b"\x00\xff", (255, 255, 255))):
        settings = {} if transparency is None else {"transparency": transparency}
        opened = open_picture(saved(image, "PNG", **settings))
        assert opened.mode == "P"
        made = rgb(opened)
        assert (made.getpixel((0, 0)), made.getpixel((7, 0))) == (left, (10, 20, 200))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_many_frames_the_first(format: str) -> None:
    frames = [PIL.Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    lossless = {"lossless": True} if format == "WEBP" else {}
    image = open_picture(saved(frames[0], format, save_all=True, append_images=frames[1:], **lossless))
    assert getattr(image, "n_frames", 1) == 3
    assert rgb(image).getpixel((8, 8)) == (255, 0, 0)


def test_an_rgb_picture_is_left_alone() -> None:
    image = noise()
    assert rgb(image) is image
    with pytest.raises(DataError, match="image of 0 x 3 pixels: is empty; give a picture with pixels"):
        rgb(PIL.Image.new("RGB", (0, 3)))
