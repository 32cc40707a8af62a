"""Any picture to the model's size and colours, boxes to cells, codes there and back."""

from __future__ import annotations

import base64
import io
import zlib

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.PngImagePlugin import PngInfo

from cm3.errors import ConfigError, DataError, RequestError
from cm3.model.vqgan import VQGAN, small
from cm3.picture import open_picture
from cm3.tokens.image import ImageTokenizer, map_box, place_box, preprocess, to_pil, to_pixels
from cm3.tokens.noted import NOTE, note_of, png_notes


def noise(width: int, height: int, seed: int = 0) -> PIL.Image.Image:
    """A reproducible RGB picture."""
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def tokenizer() -> ImageTokenizer:
    """A real, random, tiny VQGAN at 64 pixels: a grid of 4 x 4."""
    torch.manual_seed(0)
    return ImageTokenizer(VQGAN(small(16, channels=8)), 64, batch=2)


def test_an_rgb_picture_of_the_size_is_left_alone() -> None:
    image = noise(32, 32)
    assert preprocess(image, 32) is image
    assert preprocess(image, 32, "stretch") is image


MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV LAB I F I;16 I;16L I;16B".split()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode: str) -> None:
    made = preprocess(PIL.Image.new(mode, (40, 24)), 16)
    assert (made.mode, made.size) == ("RGB", (16, 16))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_colours_survive_the_mode(mode: str) -> None:
    wide = PIL.Image.new("RGB", (16, 16), "white")
    wide.paste((0, 0, 0), (0, 0, 8, 16))
    converted = preprocess(wide.convert(mode) if mode != "LAB" else _lab(wide), 16)
    assert np.abs(np.asarray(converted).astype(int) - np.asarray(wide)).max() <= 6


def _lab(image: PIL.Image.Image) -> PIL.Image.Image:
    lightness = image.convert("L")
    middle = PIL.Image.new("L", image.size, 128)
    return PIL.Image.merge("LAB", (lightness, middle, middle))


def test_alpha_is_laid_on_white() -> None:
    for image in (
        PIL.Image.new("RGBA", (8, 8), (255, 0, 0, 0)),
        PIL.Image.new("LA", (8, 8), (0, 0)),
        PIL.Image.new("RGBA", (8, 8), (255, 0, 0, 0)).convert("PA"),
    ):
        assert preprocess(image, 8).getpixel((3, 3)) == (255, 255, 255)
    half = preprocess(PIL.Image.new("RGBA", (8, 8), (255, 0, 0, 128)), 8).getpixel((3, 3))
    assert np.abs(np.subtract(half, (255, 127, 127))).max() <= 1
    palette = PIL.Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    assert preprocess(palette, 8).getpixel((0, 0)) == (0, 0, 255)
    palette.info["transparency"] = 1
    assert preprocess(palette, 8).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["uint16", ">u2", "int32", "float32", "unit", "negative"])
def test_deep_grey_is_scaled_not_clipped(mode: str) -> None:
    ramp = np.linspace(0, 65535, 256).round().reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    if mode == "negative":
        image = PIL.Image.fromarray((ramp * 3 - 70_000).astype(np.int32))
    elif mode == "unit":
        image = PIL.Image.fromarray((ramp / 65535).astype(np.float32))
    elif mode == ">u2":
        image = PIL.Image.frombytes("I;16B", (16, 16), ramp.astype(">u2").tobytes())
    else:
        image = PIL.Image.fromarray(ramp.astype(mode))
    assert (np.asarray(preprocess(image, 16))[..., 1] == expected).all()


def test_deep_grey_of_eight_bits_and_holes() -> None:
    values = np.arange(256).reshape(16, 16)
    for dtype in (np.int32, np.float32):
        assert (np.asarray(preprocess(PIL.Image.fromarray(values.astype(dtype)), 16))[..., 0] == values).all()
    odd = np.full((4, 4), np.nan, dtype=np.float32)
    odd[0, 0], odd[1, 1] = np.inf, 1.0
    assert np.asarray(preprocess(PIL.Image.fromarray(odd), 4))[..., 0].sum() == 255
    flat = np.full((4, 4), -5, dtype=np.int32)
    assert not np.asarray(preprocess(PIL.Image.fromarray(flat), 4)).any()


def oriented(upright: PIL.Image.Image, orientation: int) -> PIL.Image.Image:
    """The picture as a camera stores it with this EXIF orientation, through a real file."""
    a = np.asarray(upright)
    stored = {
        1: a, 2: a[:, ::-1], 3: a[::-1, ::-1], 4: a[::-1], 5: a.transpose(1, 0, 2), 6: np.rot90(a),
        7: a[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(a, -1),
    }[orientation]  # fmt: skip
    exif, buffer = PIL.Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    PIL.Image.fromarray(np.ascontiguousarray(stored)).save(buffer, "PNG", exif=exif)
    return PIL.Image.open(buffer)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_pictures_and_boxes(orientation: int) -> None:
    upright = noise(40, 24)
    stored = oriented(upright, orientation)
    made = preprocess(stored, 24)
    assert made.tobytes() == upright.crop((8, 0, 32, 24)).tobytes()
    assert preprocess(made, 24).tobytes() == made.tobytes()  # turned once, not twice
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x0, y0 = int(rng.integers(0, stored.width - 1)), int(rng.integers(0, stored.height - 1))
        box = (x0, y0, int(rng.integers(x0 + 1, stored.width + 1)), int(rng.integers(y0 + 1, stored.height + 1)))
        marked = PIL.Image.new("RGB", stored.size)
        marked.paste((255, 255, 255), box)
        marked.info["exif"] = stored.info["exif"]
        seen = preprocess(marked, 24).getbbox()
        if seen is None:
            with pytest.raises(RequestError, match="outside the centred square"):
                place_box(marked, box, 24)
        else:
            assert place_box(marked, box, 24) == seen


def test_broken_exif_does_not_matter() -> None:
    image = noise(8, 8)
    image.info["exif"] = b"Exif\x00\x00nonsense"
    assert preprocess(image, 8).tobytes() == image.tobytes()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.data())
@settings(max_examples=150, deadline=None)
def test_map_box_covers_what_the_box_covered(width: int, height: int, size: int, data: st.DataObject) -> None:
    fit = data.draw(st.sampled_from(["crop", "stretch"]))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    side = (width, height) if fit == "stretch" else (min(width, height),) * 2
    shift = ((width - side[0]) // 2, (height - side[1]) // 2)
    low = [max(0, (box[i] - shift[i]) * size / side[i]) for i in (0, 1)]
    high = [min(size, (box[i + 2] - shift[i]) * size / side[i]) for i in (0, 1)]
    if low[0] >= high[0] or low[1] >= high[1]:
        with pytest.raises(RequestError, match="move the box"):
            map_box(box, (width, height), size, fit)
        return
    got = map_box(box, (width, height), size, fit)
    for i in (0, 1):
        assert (
            0 <= got[i] <= low[i] < got[i] + 1 + 1e-9 and high[i] <= got[i + 2] + 1e-9 <= min(size, high[i] + 1) + 1e-6
        )


def test_crop_and_stretch() -> None:
    image = PIL.Image.new("RGB", (64, 32), "red")
    image.paste((0, 0, 255), (16, 0, 48, 32))
    cropped = np.asarray(preprocess(image, 16))
    assert (cropped[:, 4:-4] == (0, 0, 255)).all() and (cropped[..., 2] > 200).all()  # the filter looks a little past
    stretched = np.asarray(preprocess(image, 16, "stretch"))
    assert (stretched[:, 0] == (255, 0, 0)).all() and (stretched[:, 8] == (0, 0, 255)).all()


def test_shrinking_is_antialiased() -> None:
    checks = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    shrunk = np.asarray(preprocess(PIL.Image.fromarray(checks), 32))
    assert abs(shrunk.astype(int) - 127).max() <= 3


def test_pixels_are_in_the_documented_range_and_come_back() -> None:
    images = [noise(8, 4, seed) for seed in range(3)] + [
        PIL.Image.new("RGB", (8, 4)),
        PIL.Image.new("RGB", (8, 4), "white"),
    ]
    pixels = to_pixels(images)
    assert pixels.shape == (5, 3, 4, 8) and pixels.dtype == torch.float32
    assert pixels[3].unique().tolist() == [-1.0] and pixels[4].unique().tolist() == [1.0]
    assert [i.tobytes() for i in to_pil(pixels)] == [i.tobytes() for i in images]
    assert to_pil(torch.full((1, 3, 1, 1), 9.0))[0].getpixel((0, 0)) == (255, 255, 255)


def test_encode_takes_any_picture_and_is_the_network(tokenizer: ImageTokenizer) -> None:
    images = [noise(64, 64, 1), noise(90, 70, 2).convert("CMYK"), noise(64, 64, 3)]
    codes = tokenizer.encode(images)
    assert codes.shape == (3, *tokenizer.grid) == (3, 4, 4) and codes.dtype == np.int32
    assert (codes == tokenizer.encode(images)).all()
    expected = tokenizer.vqgan.eval().encode(to_pixels([images[0]]))
    assert (codes[0] == expected[0].numpy()).all()
    assert tokenizer.encode([]).shape == (0, 4, 4)


def test_a_picture_that_is_given_often_is_read_once(tokenizer: ImageTokenizer, monkeypatch) -> None:
    one, other = noise(64, 64), noise(64, 64, seed=1)
    apart = np.concatenate([tokenizer.encode([one]), tokenizer.encode([other])])
    read = []
    encode = tokenizer.vqgan.encode
    monkeypatch.setattr(tokenizer.vqgan, "encode", lambda pixels: read.append(len(pixels)) or encode(pixels))
    assert np.array_equal(tokenizer.encode([one, other, one, one]), apart[[0, 1, 0, 0]])
    assert read == [2]


def test_the_network_is_left_in_its_mode(tokenizer: ImageTokenizer) -> None:
    tokenizer.vqgan.train()
    before = {k: v.clone() for k, v in tokenizer.vqgan.state_dict().items()}
    tokenizer.decode(tokenizer.encode([noise(64, 64)]))
    assert tokenizer.vqgan.training
    assert all(torch.equal(v, before[k]) for k, v in tokenizer.vqgan.state_dict().items())


def test_a_decoded_picture_keeps_its_codes_until_it_is_touched(tokenizer: ImageTokenizer) -> None:
    codes = np.random.default_rng(0).integers(0, tokenizer.codes, (3, 4, 4))
    images = tokenizer.decode(codes)
    assert [(i.mode, i.size) for i in images] == [("RGB", (64, 64))] * 3
    assert (tokenizer.encode(images) == codes).all()
    assert (tokenizer.encode(images[::-1]) == codes[::-1]).all()
    bare = [PIL.Image.fromarray(np.asarray(i)) for i in images]
    again = tokenizer.encode(bare)
    assert (again != codes).any()  # a random network does not invert itself, so the memory is what is tested
    images[0].putpixel((0, 0), tuple(255 - v for v in images[0].getpixel((0, 0))))
    assert (tokenizer.encode([images[0]])[0] != codes[0]).any()
    torch.manual_seed(1)
    other = ImageTokenizer(VQGAN(small(16, channels=8)), 64)
    assert (other.encode([images[1]]) == other.encode([bare[1]])).all()
    weight = next(tokenizer.vqgan.parameters())
    with torch.no_grad():
        weight.mul_(1.5)
    assert (tokenizer.encode([images[1]]) == tokenizer.encode([bare[1]])).all()


@pytest.mark.parametrize("words", ["", "cm3", "0123456789abcdef"])
def test_a_file_s_own_words_are_no_codes(tokenizer: ImageTokenizer, words: str) -> None:
    told = PngInfo()
    for name in ("cm3_codes", "_cm3_codes", "_cm3_name"):
        told.add_text(name, words)
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, "PNG", pnginfo=told)
    picture = open_picture(buffer.getvalue())
    picture.load()
    assert picture.info["cm3_codes"] == words
    assert (tokenizer.encode([picture]) == tokenizer.encode([noise(64, 64)])).all()
    assert tokenizer.decode(tokenizer.encode([picture]))[0].info == {}


def through_a_file(image: PIL.Image.Image, **notes: str) -> PIL.Image.Image:
    """The picture as it is read from a PNG file with what it carries, and `notes` in its place."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=png_notes(image, notes))
    return open_picture(buffer.getvalue())


def test_a_decoded_picture_keeps_its_codes_in_its_file(tokenizer: ImageTokenizer, monkeypatch) -> None:
    codes = np.random.default_rng(0).integers(0, tokenizer.codes, (3, 4, 4))
    images = tokenizer.decode(codes)
    bare = tokenizer.encode([PIL.Image.fromarray(np.asarray(i)) for i in images])
    assert (bare != codes).any()  # so it is the note that gives them
    read = [through_a_file(image) for image in images]
    assert (tokenizer.encode([read[2], noise(64, 64), *read[:2]])[[2, 3, 0]] == codes).all()
    drawn: list[int] = []
    monkeypatch.setattr(tokenizer.vqgan, "decode", lambda codes: drawn.append(len(codes)))
    assert (tokenizer.encode(read) == codes).all() and not drawn  # the note was looked at once
    monkeypatch.undo()
    assert [note_of(image) for image in read] == [note_of(image) for image in images]
    # A picture of another processor may be a level off; one of other weights, one that was painted on, is no such one.
    near = PIL.Image.fromarray((np.asarray(images[0]).astype(int) + 1).clip(0, 255).astype(np.uint8))
    note = note_of(images[0])
    assert (tokenizer.encode([through_a_file(near, **note)])[0] == codes[0]).all()
    torch.manual_seed(1)
    other = ImageTokenizer(VQGAN(small(16, channels=8)), 64)
    assert (other.encode([through_a_file(images[0])]) == other.encode([images[0]])).all()
    images[0].putpixel((9, 9), tuple(255 - v for v in images[0].getpixel((9, 9))))
    plain = tokenizer.encode([PIL.Image.fromarray(np.asarray(images[0]))])
    assert (tokenizer.encode([through_a_file(images[0], **note)]) == plain).all()
    # What a picture shows is taken from no note: these codes are of another one.
    assert (tokenizer.encode([through_a_file(images[1], **note)])[0] == bare[1]).all()
    assert note_of(noise(64, 64)) == {}


def test_a_damaged_note_is_no_note(tokenizer: ImageTokenizer) -> None:
    (image,) = tokenizer.decode(np.arange(16).reshape(1, 4, 4))
    plain = tokenizer.encode([PIL.Image.fromarray(np.asarray(image))])
    good = note_of(image)[NOTE]

    def note(codes: list[int], shape: str = "4x4") -> str:
        packed = zlib.compress(np.array(codes, "<i4").tobytes())
        return f"{shape} {base64.b64encode(packed).decode()}"

    assert note(list(range(16))).split()[0] == good.split()[0] == "4x4"
    assert (tokenizer.encode([through_a_file(image, codes=note(list(range(16))))]) == np.arange(16).reshape(4, 4)).all()
    damaged = ["", "4x4", "4x4 ", "4x4 !", "4x4 AAAA", good[:20], good.replace("4x4", "2x8"), good + "\u00e9"]
    damaged += [note([*range(15), tokenizer.codes]), note([*range(15), -1]), note([0] * 15), note([0] * 17)]
    damaged += [note([0] * 16, "16x1"), good + "A" * (1 << 20)]
    for text in damaged:
        copy = image.copy()
        copy.info[NOTE] = text
        assert (tokenizer.encode([copy]) == plain).all(), text[:40]
    copy = image.copy()
    copy.info[NOTE] = 3  # as other formats may have it
    assert (tokenizer.encode([copy]) == plain).all()


def test_cells_of_box(tokenizer: ImageTokenizer) -> None:
    assert tokenizer.cells_of_box((0, 0, 64, 64)) == [(r, 0, 4) for r in range(4)]
    assert tokenizer.cells_of_box((16, 16, 32, 32)) == [(1, 1, 2)]
    assert tokenizer.cells_of_box((15, 16, 33, 33)) == [(1, 0, 3), (2, 0, 3)]
    with pytest.raises(RequestError, match="must lie inside the image"):
        tokenizer.cells_of_box((0, 0, 65, 64))


def test_refusals(tokenizer: ImageTokenizer, tmp_path) -> None:
    with pytest.raises(ConfigError, match="size=65: must be a multiple .* 16"):
        ImageTokenizer(tokenizer.vqgan, 65)
    with pytest.raises(ConfigError, match="batch=0"):
        ImageTokenizer(tokenizer.vqgan, 64, batch=0)
    with pytest.raises(ConfigError, match="fit='pad'"):
        preprocess(noise(4, 4), 4, "pad")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="size=0"):
        preprocess(noise(4, 4), 0)
    with pytest.raises(DataError, match="0 x 4 pixels: is empty"):
        preprocess(PIL.Image.new("RGB", (0, 4)), 4)
    with pytest.raises(DataError, match=r"shape \(4, 4\): must be \(n, 4, 4\)"):
        tokenizer.decode(np.zeros((4, 4), int))
    with pytest.raises(DataError, match="codes from 0 to 2560: must lie in 0 to 2559"):
        tokenizer.decode(np.diag([tokenizer.codes] * 4)[None])
    with pytest.raises(DataError, match="picture 1: is L 4 x 4"):
        to_pixels([noise(4, 4), noise(4, 4).convert("L")])
    with pytest.raises(DataError, match="at least one"):
        to_pixels([])
    path = tmp_path / "cut.png"
    noise(64, 64).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with PIL.Image.open(path) as opened, pytest.raises(DataError, match="cannot be read"):
        preprocess(opened, 32)
