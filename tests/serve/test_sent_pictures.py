"""Pictures in requests and answers: limits, encodings, addresses, files that are exact, and masks to the pixel."""

from __future__ import annotations

import base64
import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3.document import Image
from cm3.serve.canvas import GREY, Canvas, masked
from cm3.serve.limits import Settings
from cm3.serve.problem import Problem
from cm3.serve.sent_pictures import data_url, download, encoded, fetch, is_public, read_base64, read_bytes, read_url

SETTINGS = Settings(picture_mb=0.01, pixels=1000, fetch=True)
SMALL = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


def png(pixels: Any, **options: Any) -> bytes:
    """A file of an array."""
    saved = io.BytesIO()
    PIL.Image.fromarray(np.asarray(pixels, np.uint8)).save(saved, "PNG", **options)
    return saved.getvalue()


def told(problem: pytest.ExceptionInfo[Problem]) -> str:
    """The message, once the rest of the problem is as it is for every picture."""
    assert (problem.value.status, problem.value.param, problem.value.code) == (400, "image[1]", "invalid_image")
    assert "\n" not in problem.value.message
    return problem.value.message


def test_pixels_are_let_go_until_they_are_wanted() -> None:
    """Of sixteen pictures of 50 megapixels they would be gigabytes, while the request waits for its turn."""
    pixels = read_bytes(png(SMALL), "image", SETTINGS).pixels
    assert getattr(pixels, "tile"), "what is left to decode"  # noqa: B009
    pixels.load()
    assert not getattr(pixels, "tile")  # noqa: B009


@pytest.mark.parametrize("read", [read_bytes, read_base64, read_url])
def test_a_picture_is_read_however_it_comes(read: Callable[..., Image]) -> None:
    data = png(SMALL)
    text = base64.b64encode(data).decode()
    for given_, reads in ((data, read_bytes), (text, read_base64), (f"DATA:image/PNG;base64,{text}", read_url)):
        if reads is read:
            np.testing.assert_array_equal(np.asarray(read(given_, "image[1]", SETTINGS).pixels), SMALL)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "image[1]: picture of 0 bytes: is empty; save it again"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image[1]: picture of 41 bytes: not a picture"),
        (png(SMALL)[:-40], "image[1]: cannot be read to its end (image file is truncated"),
        (png(np.zeros((26, 39, 3))), "image[1]: picture of 39 x 26 pixels: more than 1000; scale it down"),
        (png(SMALL, compress_level=0) + bytes(10_000), "image[1]: takes more than 0.01 MB; scale it down"),
    ],
    ids=["empty", "no picture", "cut short", "pixels", "bytes"],
)
def test_bytes_that_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(Problem) as problem:
        read_bytes(data, "image[1]", SETTINGS)
    assert told(problem).startswith(said)


@pytest.mark.parametrize("wrong", ["=", "QUJ", "QUJD\n", "QU JD", "QU-_", "QUJD====", "\xe9\xe9\xe9\xe9"])
def test_base64_is_strict(wrong: str) -> None:
    with pytest.raises(Problem) as problem:
        read_base64(wrong, "image[1]", SETTINGS)
    assert told(problem).startswith("image[1]: is no base64 (")


def test_base64_that_is_too_long_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(Problem) as problem:
        read_base64("!" * 20_000, "image[1]", SETTINGS)
    assert told(problem) == "image[1]: takes more than 0.01 MB; scale it down"


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png,abc", "data:;base64,QUJD", "data:text/html;base64,QUJD", "data:image/png;base64", "data:",
        "file:///etc/hostname", "../x.png", "ftp://example.org/a.png", "", "QUJD",
    ],
)  # fmt: skip
def test_urls_that_are_none_of_a_picture(url: str) -> None:
    with pytest.raises(Problem) as problem:
        read_url(url, "image[1]", SETTINGS)
    assert told(problem).startswith(f"image[1]={url!r}: ")


def test_the_web_is_not_asked_unless_the_server_allows_it() -> None:
    with pytest.raises(Problem) as problem:
        read_url("https://example.org/a.png", "image[1]", Settings())
    assert "this server loads no pictures from the web; send the picture itself" in told(problem)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1",
        "fd12::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "2002:7f00:1::",
        "2002:a00:1::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001::1",
    ],
)  # fmt: skip
def test_addresses_that_are_never_asked(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_of_the_public_internet(address: str) -> None:
    assert is_public(address)


@contextmanager
def answering(answer: bytes, then_wait: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """A server on the loopback that gives one answer, and perhaps keeps the connection; its port, and what it was
    asked."""
    asked: list[bytes] = []
    end = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                one, _ = server.accept()
            except OSError:
                return
            with one:
                asked.append(one.recv(65536))
                if asked[0]:
                    one.sendall(answer)
                    end.wait(60 if then_wait else 0)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], asked
        finally:
            end.set()
            with socket.create_connection(server.getsockname()):  # wakes one that nobody asked
                pass
            thread.join()


def test_what_the_web_gives_is_loaded() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc") as (port, asked):
        assert download("127.0.0.1", "example.org", port, "/a%20b?c=d", False, 3, 30) == b"abc"
    assert (
        asked[0].startswith(b"GET /a%20b?c=d HTTP/1.1\r\nHost: example.org:")
        and b"Accept-Encoding: identity" in asked[0]
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\n\r\n",
            "the answer is 302, not 200; redirects are not",
        ),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "the answer is 404"),
        (b"HTTP/1.1 200 OK\r\n\r\nabcd", "it has more than 3 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd", "it has more than 3 bytes"),
    ],
)
def test_answers_of_the_web_that_are_refused(answer: bytes, said: str) -> None:
    with answering(answer) as (port, _), pytest.raises(ValueError, match=said):
        download("127.0.0.1", "example.org", port, "/", False, 3, 30)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na", b"HTTP/1.1 200 OK\r\nA: "])
def test_the_web_has_so_much_time_and_no_more(answer: bytes) -> None:
    with answering(answer, then_wait=True) as (port, _), pytest.raises(ValueError, match="it takes more than 0.2 s"):
        download("127.0.0.1", "example.org", port, "/", False, 3, 0.2)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "[::ffff:127.0.0.1]", "2130706433"])
def test_a_private_address_is_refused_before_it_is_asked_for_anything(host: str) -> None:
    with answering(b"") as (port, asked), pytest.raises(Problem) as problem:
        read_url(f"http://{host}:{port}/", "image[1]", SETTINGS)
    assert told(problem).endswith("cannot be loaded (its address is not one of the public internet)")
    assert asked == [b""], "only this file's own call, which says nothing"


@pytest.mark.parametrize("url", ["http://", "http:///a", "https://user@127.0.0.1/", "http://[", "http://a:99999/"])
def test_web_addresses_that_are_none(url: str) -> None:
    with pytest.raises(Problem) as problem:
        fetch(url, "image[1]", 10)
    assert told(problem).startswith(f"image[1]={url!r}: cannot be loaded (")


CLEAR = np.random.default_rng(0).integers(0, 256, (16, 24, 4), dtype=np.uint8) & [255, 255, 255, 128]
"""Random colours, half of them wholly transparent, where a lossy step would put others."""


@pytest.mark.parametrize("format", ["png", "webp"])
@pytest.mark.parametrize("pixels", [SMALL, CLEAR.astype(np.uint8)], ids=["RGB", "RGBA"])
def test_png_and_webp_are_exact(format: Any, pixels: np.ndarray) -> None:
    read = PIL.Image.open(io.BytesIO(encoded(PIL.Image.fromarray(pixels), format)))
    assert read.format == format.upper()
    np.testing.assert_array_equal(np.asarray(read), pixels)


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_less_quality_takes_fewer_bytes(format: Any) -> None:
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    sizes = [len(encoded(noise, format, quality)) for quality in (100, 60, 0)]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


def test_jpeg_lays_transparency_on_white() -> None:
    read = PIL.Image.open(io.BytesIO(encoded(PIL.Image.new("RGBA", (8, 8)), "jpeg")))
    assert (read.format, read.mode) == ("JPEG", "RGB") and np.asarray(read).min() > 250


def test_a_data_url_is_read_back() -> None:
    url = data_url(png(SMALL), "png")
    assert url.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(np.asarray(read_url(url, "image", SETTINGS).pixels), SMALL)


def layer(hole: np.ndarray) -> Image:
    """A mask that is transparent in a hole, and of any colour."""
    return Image(PIL.Image.fromarray(np.dstack([hole * 100, hole * 0, hole * 7, ~hole * 255]).astype(np.uint8)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.sampled_from([3, 4]))
def test_a_mask_is_kept_to_the_pixel(seed: int, wide: int, high: int, bands: int) -> None:
    """Whatever is drawn, it is seen in the hole and nowhere else."""
    rng, side = np.random.default_rng(seed), 8
    base = rng.integers(0, 256, (high, wide, bands), dtype=np.uint8)
    least = min(wide, high)
    x, y = rng.integers(0, wide - least + 1), rng.integers(0, high - least + 1)
    hole = np.zeros((high, wide), dtype=bool)
    hole[y : y + least, x : x + least] = rng.random((least, least)) < 0.3
    hole[y + rng.integers(least), x + rng.integers(least)] = True
    canvas = masked(Image(PIL.Image.fromarray(base)), layer(hole), "mask")
    drawn = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    made = np.asarray(canvas.painted(PIL.Image.fromarray(drawn), side))
    assert made.shape == base.shape
    np.testing.assert_array_equal(made[~hole], base[~hole])
    left, top, right, bottom = canvas.window
    assert (right - left, bottom - top) == (least, least)
    scaled = np.asarray(PIL.Image.fromarray(drawn).resize((least, least), PIL.Image.Resampling.LANCZOS))
    inside = hole[top:bottom, left:right]
    np.testing.assert_array_equal(made[hole][:, :3], scaled[inside])
    assert bands == 3 or (made[hole][:, 3] == 255).all()
    some = np.asarray(canvas.painted(PIL.Image.fromarray(drawn[: side // 2]), side))
    np.testing.assert_array_equal(some[~hole], base[~hole])
    np.testing.assert_array_equal(some[top + least // 2 :], base[top + least // 2 :])


def test_the_model_sees_the_window_with_its_hole() -> None:
    base = np.random.default_rng(0).integers(0, 256, (20, 60, 3), dtype=np.uint8)
    hole = np.zeros((20, 60), dtype=bool)
    hole[3:5, 40:52] = hole[9, 44] = True
    canvas = masked(Image(PIL.Image.fromarray(base)), layer(hole), "mask")
    assert canvas.window == (36, 0, 56, 20) and canvas.size == "60x20"
    assert canvas.seen.gap == (4, 3, 16, 10)
    np.testing.assert_array_equal(np.asarray(canvas.seen.pixels), base[:, 36:56])


def test_a_picture_and_its_mask_are_upright_when_they_are_compared() -> None:
    """A telephone's picture is stored lying."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture = Image(data=png(np.zeros((10, 30, 3)), exif=exif))
    hole = np.ones((30, 10), dtype=bool)
    hole[10:] = False
    assert masked(picture, layer(hole), "mask").size == "10x30"


ONE = np.zeros((8, 24), dtype=bool)
ONE[0, 0] = True


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (layer(ONE[:, :8]), "the mask is 8x8 and the picture 24x8; give a mask of the picture's size"),
        (layer(ONE & False), "is nowhere wholly transparent (alpha 0), so there is nothing to draw"),
        (layer(ONE | True), "its hole is longer than 8 pixels, the largest square in the picture; mask less"),
        (Image(PIL.Image.new("RGB", (24, 8))), "has no transparency; make it transparent where to draw"),
        (Image(PIL.Image.new("L", (24, 8))), "has no transparency; make it transparent where to draw"),
        (Image(PIL.Image.new("LA", (24, 8), (0, 1))), "is nowhere wholly transparent"),
    ],
    ids=["size", "nothing", "too long", "RGB", "L", "alpha 1"],
)
def test_masks_that_are_refused(mask: Image, said: str) -> None:
    with pytest.raises(Problem) as problem:
        masked(Image(PIL.Image.new("RGB", (24, 8))), mask, "mask.image_url")
    assert problem.value.message.startswith(f"mask.image_url: {said}")
    assert (problem.value.status, problem.value.param, problem.value.code) == (400, "mask.image_url", "invalid_mask")


def test_a_mask_may_have_any_form_of_transparency() -> None:
    """In a palette it is one of the colours."""
    mask = PIL.Image.new("P", (24, 8), 1)
    mask.paste(0, (2, 3, 5, 7))
    saved = io.BytesIO()
    mask.save(saved, "PNG", transparency=0)
    canvas = masked(Image(PIL.Image.new("RGB", (24, 8))), Image(data=saved.getvalue()), "mask")
    assert canvas.seen.gap == (2, 3, 5, 7)


def test_a_new_picture_is_grey_where_it_is_not_drawn() -> None:
    made = np.asarray(Canvas.new(8).painted(PIL.Image.new("RGB", (8, 3)), 8))
    assert (made[:3] == 0).all() and (made[3:] == GREY).all()
