"""Pictures as they are found: every kind becomes upright RGB, and every damaged one is refused, never a crash."""

from __future__ import annotations

import copy
import io
import os
import pickle
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL.PngImagePlugin import PngInfo

from cm3 import picture
from cm3.document import Image, Place
from cm3.errors import DataError
from cm3.picture import LIMIT, Square, open_picture, rgb, square, square_of_file

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


@pytest.mark.parametrize("format", [*FORMATS, "PPM", "MPO", "AVIF"])
def test_each_format_of_the_list_is_read(format: str) -> None:
    if format == "AVIF" and format not in picture.FORMATS:
        pytest.skip("this Pillow reads no AVIF")
    image = open_picture(saved(noise(), format))
    assert rgb(image).mode == "RGB" and image.size == (48, 32)


@pytest.mark.parametrize("format", ["ICO", "TGA", "PCX", "SGI", "JPEG2000", "DDS", "QOI", "PDF", "EPS"])
def test_no_other_format_of_pillow_is_read(format: str, tmp_path: Path) -> None:
    data = saved(noise(), format)
    with pytest.raises(DataError, match="not a picture; give a PNG, JPEG or WebP file"):
        open_picture(data)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a.png': not a readable picture \(picture of \d+ bytes: not a picture; give"):
        Image.open(tmp_path / "a.png")


def test_a_file_larger_than_any_picture_is_not_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = saved(noise(), "PNG")
    monkeypatch.setattr(picture, "BYTES", len(data) - 1)
    with pytest.raises(DataError, match=f"^a.png: picture of {len(data)} bytes: more than {len(data) - 1}; scale it"):
        open_picture(data, "a.png")
    monkeypatch.setattr(picture, "BYTES", len(data))
    assert open_picture(data).size == (48, 32)


def test_formats_that_take_more_room_have_a_lower_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert picture.LIMITS["WEBP"] < LIMIT
    monkeypatch.setitem(picture.LIMITS, "WEBP", 48 * 32 - 1)
    with pytest.raises(DataError, match="^picture of 48 x 32 pixels: more than 1535; scale it down"):
        open_picture(saved(noise(), "WEBP"))
    assert open_picture(saved(noise(), "PNG")).size == (48, 32)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F", "RGBA", "LA", "La", "P", "RGBa", "PA"])
def test_bands_change_nothing(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = PIL.Image.fromarray((rng.standard_normal((32, 48)) * 9000 + 30000).astype(kind))
    elif mode == "I;16B":
        values = rng.integers(0, 65536, (32, 48)).astype(">u2")
        image = PIL.Image.frombytes("I;16B", (48, 32), values.tobytes())
    elif mode == "P":
        image = noise().quantize(16)
        image.info["transparency"] = 3
    elif mode == "La":
        image = PIL.Image.fromarray(rng.integers(0, 256, (32, 48, 2), dtype=np.uint8), "LA").convert("La")
    elif mode == "PA":
        image = noise().quantize(16).convert("PA")
    else:
        image = noise().convert("RGBA")
        image.putalpha(PIL.Image.fromarray(rng.integers(0, 256, (32, 48), dtype=np.uint8)))
        image = image.convert(mode)
    assert image.mode == mode
    whole, key = rgb(image), hash(Image(image))
    monkeypatch.setattr(picture, "_BAND", 100)
    assert len(list(picture.bands(image))) == 16
    assert rgb(image).tobytes() == whole.tobytes() and hash(Image(image)) == key


@pytest.mark.parametrize("mode", ["I;16", "F", "RGBA"])
def test_a_deep_picture_takes_little_more_room_than_it_has(mode: str, tmp_path: Path) -> None:
    """40 million pixels: 160 MB as Pillow holds RGB and F, where float64 copies took 320 MB each."""
    script = f"""
import resource, PIL.Image
from cm3.picture import rgb
image = PIL.Image.new({mode!r}, (8000, 5000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = rgb(image)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120)
    assert int(ran.stdout) < 160 + 200


def test_a_cut_picture_is_named_after_its_file() -> None:
    data = saved(noise(), "PNG")
    with pytest.raises(
        DataError, match="^0007.png: image of mode RGB: cannot be read .*; save it again as PNG or JPEG"
    ):
        rgb(open_picture(data[:3000], "0007.png"))
    with pytest.raises(DataError, match="^0007.png: picture of 6 bytes: not a picture"):
        open_picture(b"<html>", "0007.png")


def test_much_text_in_a_small_file_is_refused_in_one_line() -> None:
    """Pillow's own bound; the text here is 4 MB, harmless."""
    words = PngInfo()
    words.add_text("Comment", "a" * (4 << 20), zip=True)
    data = saved(noise(), "PNG", pnginfo=words)
    with pytest.raises(DataError, match=r"cannot be read \(.*\); save it again") as told:
        rgb(open_picture(data))
    assert "\n" not in str(told.value)


def test_large_profiles_and_odd_exif_are_no_reason_to_refuse_good_pixels() -> None:
    data = saved(noise(), "PNG", icc_profile=bytes(300_000), exif=b"Exif\0\0" + b"MM" * 20_000)
    assert rgb(open_picture(data)).tobytes() == noise().tobytes()


def test_equal_images_hash_alike_and_different_ones_do_not() -> None:
    files = [saved(noise(), "PNG"), saved(noise(), "TIFF"), saved(noise(), "BMP")]
    same = [Image(open_picture(data)) for data in files]
    assert len({hash(image) for image in same}) == 1 and len(set(same)) == 1
    other = noise()
    other.putpixel((47, 31), (1, 2, 3))
    assert Image(other) != same[0] and hash(Image(other)) != hash(same[0])
    assert len({hash(Image(PIL.Image.new("L", (9, 9), v))) for v in range(256)}) == 256
    assert hash(same[0].with_gap((0, 0, 1, 1))) != hash(same[0]) and same[0].with_gap((0, 0, 1, 1)) != same[0]


def test_images_of_one_palette_s_numbers_in_other_colours_are_not_equal() -> None:
    one, two = PIL.Image.new("P", (4, 4), 1), PIL.Image.new("P", (4, 4), 1)
    one.putpalette([0, 0, 0, 9, 9, 9])
    two.putpalette([0, 0, 0, 9, 9, 200])
    assert one.tobytes() == two.tobytes()
    assert Image(one) != Image(two) and hash(Image(one)) != hash(Image(two))


def test_the_pixels_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image, calls = Image(noise()), []
    monkeypatch.setattr("cm3.document.bands", lambda pixels: calls.append(pixels) or picture.bands(pixels))
    assert hash(image) == hash(image) and image == Image(noise())
    assert sum(pixels is image.pixels for pixels in calls) == 1


def test_a_cut_picture_that_is_compared_is_refused_in_our_words() -> None:
    cut = Image(open_picture(saved(noise(), "PNG")[:3000]))
    with pytest.raises(DataError, match="image of mode RGB: cannot be read .*; save it again"):
        hash(cut)


@pytest.mark.parametrize("what", ["folder", "device"])
def test_what_is_no_file_is_no_picture(what: str, tmp_path: Path) -> None:
    path = tmp_path if what == "folder" else Path("/dev/null")
    with pytest.raises(DataError, match=r"not a readable picture \(not a file\); give a PNG, JPEG or WebP file"):
        Image.open(path)


def test_a_picture_may_come_through_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(saved(noise(), "PNG"),))
    writer.start()
    assert Image.open(pipe).pixels.tobytes() == noise().tobytes()
    writer.join()


def before(image: PIL.Image.Image, size: int, fit: str) -> PIL.Image.Image:
    """The square fits as they were written before they were one: the codec's, and CLIP's."""
    image = rgb(image)
    (w, h), least = image.size, min(image.size)
    if fit == "clip":
        if image.size == (size, size):
            return image
        wide, high = size * w // least, size * h // least
        left, top = round((wide - size) / 2), round((high - size) / 2)
        box = (left * w / wide, top * h / high, (left + size) * w / wide, (top + size) * h / high)
        return image.resize((size, size), PIL.Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    left, top = (w - least) // 2, (h - least) // 2
    box = (0, 0, w, h) if fit == "stretch" else (left, top, left + least, top + least)
    return image.resize((size, size), PIL.Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


@pytest.mark.parametrize("fit", ["crop", "stretch", "clip"])
def test_the_one_square_fit_gives_the_bytes_of_those_before_it(fit: Square) -> None:
    for size, wide, high in [(16, 48, 32), (16, 16, 16), (16, 16, 29), (16, 41, 16), (32, 17, 23), (24, 301, 199)]:
        image = noise(wide, high)
        assert square(image, size, fit).tobytes() == before(image, size, fit).tobytes()
    whole = noise(16, 16)
    assert square(whole, 16, fit) is whole


def decibel(a: PIL.Image.Image, b: PIL.Image.Image) -> float:
    """Peak signal-to-noise ratio."""
    error = np.square(np.asarray(a, float) - np.asarray(b)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def drawn(width: int, height: int, seed: int = 0) -> PIL.Image.Image:
    """Edges, slopes and grain: as much detail as a photograph, none of it at the limit of the pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    made = np.zeros((height, width, 3))
    for _ in range(12):
        a, b, c = rng.normal(size=3)
        made += (np.tanh(8 * (a * x + b * y + 0.3 * c + 0.2 * np.sin(9 * x * a)))[..., None]) * rng.normal(size=3) * 22
    made += rng.normal(0, 3, made.shape)
    return PIL.Image.fromarray((made + 128).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("fit", ["crop", "stretch", "clip"])
@pytest.mark.parametrize("settings", [{}, {"subsampling": 0, "quality": 95}, {"progressive": True, "quality": 60}])
def test_the_fast_way_is_within_40_decibel(fit: Square, settings: dict) -> None:
    fast = 0
    for seed, (wide, high) in enumerate([(701, 503), (415, 640)]):
        data = saved(drawn(wide, high, seed), "JPEG", **settings)
        for size in (32, 50, 64, 100):
            exact, made = square(open_picture(data), size, fit), square_of_file(data, size, fit)
            assert made.mode == "RGB" and made.size == (size, size)
            assert decibel(made, exact) >= 40, (seed, size)
            fast += made.tobytes() != exact.tobytes()
    assert fast >= 4, "the fast way was taken"


PHOTOS = sorted((Path(__file__).parents[2] / "shared/data/photos").glob("*.jpg"))


@pytest.mark.skipif(not PHOTOS, reason="no photographs beside the checkout")
def test_the_fast_way_is_within_40_decibel_on_photographs() -> None:
    fast = 0
    for path in PHOTOS[::20]:
        data = path.read_bytes()
        for size in (32, 34, 48, 64, 68):
            exact, made = square(open_picture(data), size), square_of_file(data, size)
            assert decibel(made, exact) >= 40, (path.name, size)
            fast += made.tobytes() != exact.tobytes()
    assert fast > 2 * len(PHOTOS[::20])


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_fast_way_turns_a_picture_upright(turn: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    data = saved(drawn(517, 403), "JPEG", exif=exif)
    for part in (None, (11.0, 7.0, 391.0, 387.0)):
        exact, made = square(open_picture(data), 48, part=part), square_of_file(data, 48, part=part)
        assert made.tobytes() != exact.tobytes() and decibel(made, exact) >= 40
        assert rgb(made) is made and picture.orientation(made) == 1, "it is turned once"


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_the_fast_way_knows_which_jpegs_it_may_take(mode: str) -> None:
    data = saved(drawn(600, 500).convert(mode), "JPEG")
    exact, made = square(open_picture(data), 40), square_of_file(data, 40)
    assert decibel(made, exact) >= 40
    assert (made.tobytes() == exact.tobytes()) == (mode == "CMYK"), "its colours are no sums of those of its parts"


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_and_small_ones_come_out_to_the_bit(format: str) -> None:
    for data, size in ((saved(drawn(400, 300), format), 32), (saved(drawn(90, 70), "JPEG"), 64)):
        assert square_of_file(data, size).tobytes() == square(open_picture(data), size).tobytes()


def test_the_fast_way_takes_the_photographs_of_phones() -> None:
    """MPO: several JPEGs in one file, of which the first counts."""
    data = saved(drawn(600, 500), "MPO", save_all=True, append_images=[noise(600, 500)])
    assert open_picture(data).format == "MPO"
    exact, made = square(open_picture(data), 40), square_of_file(data, 40)
    assert made.tobytes() != exact.tobytes() and decibel(made, exact) >= 40


def test_the_fast_way_refuses_a_cut_picture_by_its_name() -> None:
    data = saved(drawn(600, 500), "JPEG")
    with pytest.raises(DataError, match=r"^a.jpg: image of mode RGB: cannot be read .*; save it again as PNG or JPEG$"):
        square_of_file(data[:-2000], 40, name="a.jpg")


def test_an_image_keeps_its_file(tmp_path: Path) -> None:
    data = saved(drawn(600, 500), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    image = Image(data=data, name="a.jpg")
    assert image.data == data and Image.open(tmp_path / "a.jpg").data == data
    assert image == Image.open(tmp_path / "a.jpg") == Image(PIL.Image.open(io.BytesIO(data)))
    assert image.digest == Image.open(tmp_path / "a.jpg").digest != Image(data=saved(noise(), "PNG")).digest
    assert image.square(40).tobytes() == square_of_file(data, 40).tobytes()
    assert Image(image.pixels).square(40).tobytes() == square(open_picture(data), 40).tobytes()
    holed = image.with_gap((0, 0, 9, 9))
    assert (holed.data, holed.name, holed.gap, holed.pixels) == (data, "a.jpg", (0, 0, 9, 9), image.pixels)
    assert "data" not in repr(image)


def test_an_image_of_a_file_travels_as_its_file() -> None:
    data = saved(drawn(600, 500), "JPEG")
    sent = pickle.dumps(Image(data=data, name="a.jpg", place=Place("a.tar", 512, len(data))).with_gap((1, 2, 3, 4)))
    assert len(sent) < len(data) + 1000
    got = pickle.loads(sent)
    assert (got.data, got.name, got.gap, got.place) == (data, "a.jpg", (1, 2, 3, 4), Place("a.tar", 512, len(data)))
    made = Image(noise(), (0, 0, 1, 1))
    assert pickle.loads(pickle.dumps(made)) == made == copy.deepcopy(made)


def test_an_image_of_a_damaged_file_names_it() -> None:
    with pytest.raises(DataError, match="^a.png: picture of 4 bytes: not a picture"):
        Image(data=b"none", name="a.png")
    cut = Image(data=saved(noise(), "PNG")[:3000], name="a.png")
    for ask in (lambda: rgb(cut.pixels), lambda: cut.square(16)):
        with pytest.raises(DataError, match="^a.png: image of mode RGB: cannot be read .*; save it again"):
            ask()
    with pytest.raises(
        DataError, match=r"^Image takes a PIL image, got NoneType; open a file with Image.open\(path\)$"
    ):
        Image()
