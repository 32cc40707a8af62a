"""Each step from a picture to a network's square is what its name says, and the networks' vectors are the library's."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from cm3.errors import CheckpointError, ConfigError, DataError
from cm3.picture import open_picture
from cm3.score.features import Preparation, load_features


def noise(high: int, wide: int, seed: int = 0) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (high, wide, 3), dtype=np.uint8))


def bilinear(picture: PIL.Image.Image, side: int) -> np.ndarray:
    """The textbook's: centres of pixels on centres, four neighbours, no smoothing; (side, side, 3) in 0..1."""
    a = np.asarray(picture).astype(np.float64) / 255

    def along(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = ((np.arange(side) + 0.5) * n / side - 0.5).clip(0)
        low = at.astype(int)
        return low, np.minimum(low + 1, n - 1), at - low

    (y0, y1, fy), (x0, x1, fx) = along(a.shape[0]), along(a.shape[1])
    fy, fx = fy[:, None, None], fx[None, :, None]
    top, bottom = a[y0][:, x0] * (1 - fx) + a[y0][:, x1] * fx, a[y1][:, x0] * (1 - fx) + a[y1][:, x1] * fx
    return top * (1 - fy) + bottom * fy


def ready(preparation: Preparation, picture: PIL.Image.Image, side: int) -> np.ndarray:
    return preparation.pixels(preparation.rgb(picture), side).permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize(("high", "wide", "side"), [(40, 60, 17), (10, 7, 29), (16, 16, 16)])
def test_the_default_is_a_plain_bilinear_stretch(high: int, wide: int, side: int) -> None:
    picture = noise(high, wide)
    np.testing.assert_allclose(ready(Preparation(), picture, side), bilinear(picture, side), atol=1e-5)


@pytest.mark.parametrize(("filter", "own"), [("bilinear", PIL.Image.BILINEAR), ("bicubic", PIL.Image.BICUBIC)])
def test_antialiased_and_quantised_it_is_pillow(filter: Any, own: Any) -> None:
    picture = noise(61, 47)
    found = ready(Preparation(filter=filter, antialias=True, quantise=True), picture, 19) * 255
    np.testing.assert_allclose(found, found.round(), atol=1e-3)
    assert np.abs(found - np.asarray(picture.resize((19, 19), own)).astype(float)).max() <= 1.001
    unrounded = ready(Preparation(filter=filter, antialias=True), picture, 19) * 255
    assert 0 < np.abs(unrounded - found).max() <= 0.501
    sharp = ready(Preparation(filter=filter), picture, 19) * 255
    assert np.abs(sharp - found).mean() > 10, "without smoothing it is another picture"


def test_crop_and_size_are_of_the_picture_first() -> None:
    picture = noise(30, 50)
    cropped = ready(Preparation(crop="centre"), picture, 20)
    np.testing.assert_allclose(cropped, bilinear(picture.crop((10, 0, 40, 30)), 20), atol=1e-5)
    small = Preparation(crop="centre", size=12).rgb(picture)
    want = picture.resize((12, 12), PIL.Image.LANCZOS, box=(10, 0, 40, 30), reducing_gap=3.0)
    np.testing.assert_array_equal(np.asarray(small), np.asarray(want))
    assert Preparation(size=12).rgb(picture).size == (12, 12)


def test_colours_are_as_stored_or_upright() -> None:
    picture = noise(8, 12)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = picture.copy()
    turned.info["exif"] = exif.tobytes()
    turned = PIL.Image.merge("RGBA", (*turned.split(), PIL.Image.new("L", (12, 8), 0)))
    turned.info["exif"] = exif.tobytes()
    stored = Preparation().rgb(turned)
    np.testing.assert_array_equal(np.asarray(stored), np.asarray(picture))  # transparency is dropped, nothing turned
    assert Preparation(crop="centre", size=4).rgb(turned).size == (4, 4)
    upright = Preparation(colours="upright").rgb(turned)
    assert upright.size == (8, 12) and bool((np.asarray(upright) == 255).all())  # on white


def test_bad_preparations_and_pictures_are_refused() -> None:
    with pytest.raises(ConfigError, match="filter='nearest': must be one of bilinear, bicubic"):
        Preparation(filter="nearest")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="size=0"):
        Preparation(size=0)
    with pytest.raises(DataError, match="image of mode RGB: cannot be read"):
        whole = io.BytesIO()
        noise(40, 40).save(whole, "PNG")
        Preparation().rgb(open_picture(whole.getvalue()[:900]))
    with pytest.raises(DataError, match="image of 0 x 3 pixels: is empty"):
        Preparation().pixels(PIL.Image.new("RGB", (0, 3)), 9)


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Networks of random weights in the layouts of the DINOs."""
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    second = transformers.Dinov2Config(**{**SMALL, "mlp_ratio": 2}, image_size=56, patch_size=14)
    first = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8)
    transformers.Dinov2Model(second).save_pretrained(folder / "dinov2")
    transformers.ViTModel(first, add_pooling_layer=False).save_pretrained(folder / "vit")
    (folder / "dinov2" / "preprocessor_config.json").write_text(
        json.dumps(
            {"crop_size": {"height": 28, "width": 28}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
        )
    )
    return {name: folder / name for name in ("dinov2", "vit")}


@pytest.mark.parametrize("kind", ["dinov2", "vit"])
def test_a_dino_is_its_first_token(dino: dict[str, Path], kind: str) -> None:
    import transformers

    features = load_features(dino[kind])
    side = {"dinov2": 28, "vit": 32}[kind]
    assert (features.width, features.side) == (16, side) and features.name.startswith(f"{kind}:")
    pictures = [noise(40, 30, 1), noise(32, 32, 2), noise(9, 50, 3)]
    found = features([features.preparation.rgb(p) for p in pictures])
    mean, std = (
        ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)) if kind == "dinov2" else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    squares = []
    for picture in pictures:
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        square = picture.resize((side, side), PIL.Image.BICUBIC, box=(left, top, left + short, top + short))
        squares.append((np.asarray(square) / 255 - mean) / std)
    model = transformers.AutoModel.from_pretrained(dino[kind]).eval()
    pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        want = model(pixels).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(found, want, atol=0.05)  # squares differ by a level at most
    assert np.abs(found - want[::-1]).max() > 2 * np.abs(found - want).max()
    for batch in (1, 2):
        again = [features([features.preparation.rgb(p) for p in pictures[i : i + batch]]) for i in range(0, 3, batch)]
        np.testing.assert_allclose(np.concatenate(again), found, atol=1e-5)
    assert features([]).shape == (0, 16)


def test_bad_folders_are_named(dino: dict[str, Path], tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(dino["dinov2"], tmp_path / name))

    with pytest.raises(CheckpointError, match="config.json cannot be read"):
        load_features(tmp_path)
    with pytest.raises(CheckpointError, match="has no weights"):
        (copy("bare") / "model.safetensors").unlink()
        load_features(tmp_path / "bare")
    page = json.loads((dino["dinov2"] / "config.json").read_text())
    (copy("bert") / "config.json").write_text(json.dumps({**page, "model_type": "bert"}))
    with pytest.raises(CheckpointError, match="describes a 'bert'; give a folder of a CLIP or a DINO"):
        load_features(tmp_path / "bert")
    (copy("deep") / "config.json").write_text(json.dumps({**page, "num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match="weight 'encoder.layer.2.* is missing"):
        load_features(tmp_path / "deep")
    (copy("odd") / "preprocessor_config.json").write_text(json.dumps({"image_std": [1, 0, 1]}))
    with pytest.raises(CheckpointError, match=r"image_std=\[1, 0, 1\], must be three numbers"):
        load_features(tmp_path / "odd")
    with pytest.raises(ConfigError, match="device='nowhere'"):
        load_features(dino["vit"], device="nowhere")
    with pytest.raises(ConfigError, match="crop='left'"):
        load_features(dino["vit"], prepare={"crop": "left"})
