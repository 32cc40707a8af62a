"""The small CLIP: words by their letters, any picture, a folder that round-trips and says when it is damaged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.retrieval.pairs import WEIGHTS, PairEncoder, Pairs, PairsConfig, save, words_of
from cm3.retrieval.pixels import pixels_of, square

TINY = PairsConfig(width=16, words=8, letters=4, letter_dim=4, d_model=16, layers=1, heads=2, channels=(8, 8, 16))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save(Pairs(TINY), tmp_path / "pairs", {"steps": 0})
    return tmp_path / "pairs"


def test_words_are_their_letters() -> None:
    letters, index = words_of(["a Blick", "", "blick, A"], dataclasses.replace(TINY, letters=8))
    said = [bytes(row[row != 0].tolist()).decode() for row in letters]
    assert said == ["", "a", "blick", ","]
    assert index.tolist() == [[1, 2, 0], [0, 0, 0], [2, 3, 1]]


def test_long_words_are_several_and_long_texts_are_cut() -> None:
    letters, index = words_of(["abcdefghij", "1 2 3 4 5 6 7 8 9 10", "\u00fc\u00fc\u00fc \ud800"], TINY)
    said = [bytes(row[row != 0].tolist()) for row in letters]
    assert [said[i] for i in index[0].tolist() if i] == [b"abcd", b"efgh", b"ij"]
    assert int((index[1] != 0).sum()) == TINY.words
    assert [said[i] for i in index[2].tolist() if i] == ["\u00fc\u00fc".encode(), "\u00fc".encode(), b"?"]


def test_vectors_are_unit_rows_whatever_they_stand_beside(folder: Path) -> None:
    encoder = PairEncoder.load(folder)
    texts = ["a red circle", "", "one two three four five six seven", "a blosk", "a"]
    many = encoder.texts(texts)
    assert many.shape == (5, 16) and many.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(many, np.concatenate([encoder.texts([t]) for t in texts]), atol=1e-5)
    pictures = [Image.new("RGB", (90, 70), (40 * i, 200, 10)) for i in range(3)]
    seen = encoder.images(pictures)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(seen[1:2], encoder.images(pictures[1:2]), atol=1e-5)
    assert encoder.texts([]).shape == encoder.images([]).shape == (0, 16)


def test_more_than_a_chunk_equals_one_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = PairEncoder.load(folder)
    texts = [f"word {i}" for i in range(7)]
    whole = encoder.texts(texts)
    monkeypatch.setattr("cm3.retrieval.pairs.CHUNK", 3)
    np.testing.assert_allclose(encoder.texts(texts), whole, atol=1e-6)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_any_mode_is_read(mode: str) -> None:
    image = Image.new("L", (50, 30), 90)
    image = image.convert("LA").convert("La") if mode == "La" else image.convert("RGB").convert(mode)
    assert square(image, 16).mode == "RGB" and square(image, 16).size == (16, 16)


@pytest.mark.parametrize(
    ("mode", "dtype", "top"), [("I;16", np.uint16, 65535), ("I", np.int32, 255), ("F", np.float32, 1)]
)
def test_deep_grey_is_scaled(mode: str, dtype: Any, top: int) -> None:
    image = Image.fromarray(np.array([[0, top], [top, 0]], dtype=dtype))
    assert image.mode == mode
    assert np.asarray(square(image, 2)).tolist() == [[[0] * 3, [255] * 3], [[255] * 3, [0] * 3]]


def test_grey_without_a_usual_span_is_stretched() -> None:
    image = Image.fromarray(np.array([[-5.0, np.nan], [5.0, -5.0]], dtype=np.float32))
    assert np.asarray(square(image, 2))[..., 0].tolist() == [[0, 128], [255, 0]]


def test_the_middle_square_upright_on_white() -> None:
    image = Image.new("RGBA", (60, 20), (255, 0, 0, 255))
    image.paste((0, 0, 255, 255), (20, 0, 40, 20))
    whole = np.asarray(image.convert("RGB").resize((30, 10), Image.Resampling.BICUBIC))
    assert np.array_equal(np.asarray(square(image, 10)), whole[:, 10:20])
    odd = Image.effect_noise((47, 101), 90).convert("RGB")
    whole = np.asarray(odd.resize((24, 51), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(np.asarray(square(odd, 24)) - whole[14:38]).max() <= 2
    assert square(Image.new("RGBA", (4, 4)), 4).getpixel((0, 0)) == (255, 255, 255)
    turned = Image.new("RGB", (2, 2), (0, 0, 0))
    turned.putpixel((0, 0), (255, 0, 0))
    turned.getexif()[0x0112] = 3
    assert square(turned, 2).getpixel((1, 1)) == (255, 0, 0) and turned.getpixel((0, 0)) == (255, 0, 0)
    assert pixels_of([image, turned], 16).shape == (2, 3, 16, 16)


def test_unreadable_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="image of 0 x 4 pixels: is empty; give a picture"):
        square(Image.new("RGB", (0, 4)), 16)
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with Image.open(path) as cut, pytest.raises(DataError, match="cannot be read .* save it again as PNG or JPEG"):
        square(cut, 16)


def test_a_folder_round_trips_in_half_precision(folder: Path) -> None:
    torch.manual_seed(0)
    model = Pairs(TINY)
    for weight in model.parameters():
        weight.data = weight.data.half().float()
    fresh, read = PairEncoder(model, "pairs:x"), PairEncoder.load(folder)
    assert np.array_equal(fresh.texts(["a blosk"]), read.texts(["a blosk"]))
    assert read.name.startswith("pairs:") and len(read.name) == len("pairs:") + 12
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == "cm3-pairs" and config["about"] == {"steps": 0}
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", WEIGHTS]


def test_other_weights_have_another_name(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save(Pairs(TINY), tmp_path / "other")
    assert PairEncoder.load(folder).name == PairEncoder.load(folder).name != PairEncoder.load(tmp_path / "other").name


def test_the_usual_shape_is_small(tmp_path: Path) -> None:
    save(Pairs(PairsConfig()), tmp_path)
    assert (tmp_path / WEIGHTS).stat().st_size < 1.5e6


def damage(folder: Path, what: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if what == "no config":
        (folder / "config.json").unlink()
    elif what == "no weights":
        (folder / WEIGHTS).unlink()
    elif what == "altered":
        data = bytearray((folder / WEIGHTS).read_bytes())
        data[-1] ^= 1
        (folder / WEIGHTS).write_bytes(data)
    elif what == "version":
        (folder / "config.json").write_text(json.dumps(config | {"version": 2}))
    else:
        wider = config["model"] | {"width": 32}
        (folder / "config.json").write_text(json.dumps(config | {"model": wider}))


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("no config", "config.json cannot be read"),
        ("no weights", "weights.safetensors is missing; restore it"),
        ("altered", "weights.safetensors was altered .* restore it"),
        ("version", "config.json is not of cm3-pairs version 1"),
        ("shape", "weights.safetensors does not fit config.json"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, what: str, told: str) -> None:
    damage(folder, what)
    with pytest.raises(CheckpointError, match=told):
        PairEncoder.load(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 10**12), ("letters", 10**12), ("words", 10**15), ("d_model", 2**62), ("layers", 10**12),
        ("image_size", 16 * 10**9), ("channels", [8 * 10**12, 8, 8]), ("letter_dim", 10**18), ("heads", "2"),
        ("width", True), ("width", None), ("channels", 8), ("channels", [8, 8]), ("more", 1), ("width", 1.5),
    ],
)  # fmt: skip
def test_a_config_is_compared_with_the_weights_first(folder: Path, name: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model": config["model"] | {name: value}}))
    kinds = rf"config.json.model.{name}(\W.*: must be|: is no field of PairsConfig)"
    with pytest.raises(CheckpointError, match=f"does not fit config.json|{kinds}") as told:
        PairEncoder.load(folder)
    assert "\n" not in str(told.value)


def test_a_missing_weight_is_refused(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["log_scale"]
    save_file(tensors, folder / WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    import hashlib

    config["files"][WEIGHTS] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not fit config.json"):
        PairEncoder.load(folder)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there(folder: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device='{device}': cannot be used .* give cpu"):
        PairEncoder.load(folder, device=device)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"width": 0}, "pairs.width=0: must be at least 1"),
        ({"heads": 3}, "pairs.d_model=128: must be a multiple of pairs.heads=3"),
        ({"image_size": 50}, "pairs.image_size=50: must be a multiple of 16"),
        ({"image_size": 16, "channels": (8, 8, 8)}, "pairs.image_size=16: is too small for channels that end in 8"),
        ({"channels": (8, 8)}, "pairs.channels=.*: must be three multiples of 8"),
        ({"letters": 0, "words": 0}, "pairs.words=0.*; pairs.letters=0"),
    ],
)
def test_wrong_shapes_are_told_at_once(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        PairsConfig(**values)
