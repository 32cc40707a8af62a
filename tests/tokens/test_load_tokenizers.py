"""Tokenizers without their model: those of a bundle and of an image tokenizer run are the same, and by one name."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tiny_model
import torch
from safetensors.torch import save_file

from cm3.errors import CheckpointError
from cm3.model import bundle
from cm3.tokens.on_disk import fingerprint, load_tokenizers, text_fingerprint
from cm3.vocab import Vocab


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What an image tokenizer run writes."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"vqgan": dataclasses.asdict(tiny_model.SHAPE), "size": 32}))
    save_file(dict(tiny_model.vqgan().state_dict()), folder / "image_tokenizer.safetensors")
    return folder


def test_a_bundle_in_half_precision_keeps_the_names(run: Path, tmp_path: Path) -> None:
    bundle.save(tiny_model.bundle(), tmp_path / "bundle", torch.float16)
    of_run = load_tokenizers(run, text=tiny_model.tokenizer_path(), masks=16)
    of_bundle = load_tokenizers(tmp_path / "bundle")
    assert of_run.image == of_bundle.image == fingerprint(tiny_model.codec().image)  # type: ignore[arg-type]
    assert text_fingerprint(of_run.text) == text_fingerprint(of_bundle.text)
    assert of_run.codec.vocab == of_bundle.codec.vocab == Vocab(text=320, image=64, masks=16, reserved=0)
    grids = np.arange(32).reshape(2, 4, 4)
    pictures = tiny_model.codec().image.decode(grids)  # type: ignore[union-attr]
    pictures = [PIL.Image.fromarray(np.asarray(picture)) for picture in pictures]  # which remember nothing
    wanted = tiny_model.codec().image.encode(pictures)  # type: ignore[union-attr]
    np.testing.assert_array_equal(of_run.codec.image.encode(pictures), wanted)  # type: ignore[union-attr]


def test_another_weight_is_another_name(run: Path) -> None:
    weights = dict(tiny_model.vqgan().state_dict())
    name = next(n for n, w in weights.items() if w.dim() == 4)
    weights[name] = weights[name] * 1.01
    before = load_tokenizers(run, text=tiny_model.tokenizer_path()).image
    save_file(weights, run / "image_tokenizer.safetensors")
    assert load_tokenizers(run, text=tiny_model.tokenizer_path()).image != before


def test_what_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer '.*run/tokenizer.json': no such file"):
        load_tokenizers(run)
    shutil.copyfile(tiny_model.tokenizer_path(), run / "tokenizer.json")
    (run / "image_tokenizer.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="run': image_tokenizer.safetensors: not a readable safetensors file"):
        load_tokenizers(run)
    save_file(dict(tiny_model.vqgan().state_dict()), run / "image_tokenizer.safetensors")
    for text, told in (
        ("{}", "do not make an image tokenizer"),
        ("[]", "config.json holds a list and no object"),
        ("{", "config.json: is not readable JSON"),
        (json.dumps({"vqgan": {"channels": "8"}, "size": 32}), "vqgan.channels='8': must be a whole number"),
        (json.dumps({"vqgan": dataclasses.asdict(tiny_model.SHAPE), "size": 33}), "size=33: must be a multiple of the"),
        (json.dumps({"vqgan": dataclasses.asdict(tiny_model.SHAPE), "size": "32"}), "do not make an image tokenizer"),
        (json.dumps({"vqgan": dataclasses.asdict(tiny_model.SHAPE) | {"channels": 16}, "size": 32}), "has shape"),
    ):
        (run / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=told):
            load_tokenizers(run)
    (run / "config.json").unlink()
    with pytest.raises(CheckpointError, match="run': config.json cannot be read"):
        load_tokenizers(run)
    bundle.save(tiny_model.bundle(), tmp_path / "bundle", torch.float32)
    with pytest.raises(CheckpointError, match="a model has its own text tokenizer; give no other"):
        load_tokenizers(tmp_path / "bundle", text=tiny_model.tokenizer_path())


def test_nan_in_an_image_tokenizer_is_named(run: Path) -> None:
    weights = dict(tiny_model.vqgan().state_dict())
    weights["decoder.conv_out.bias"] = torch.full_like(weights["decoder.conv_out.bias"], float("nan"))
    save_file(weights, run / "image_tokenizer.safetensors")
    with pytest.raises(CheckpointError, match="decoder.conv_out.bias has values that are not finite, .*restore"):
        load_tokenizers(run, text=tiny_model.tokenizer_path())


@pytest.mark.parametrize("name", ["config.json", "image_tokenizer.safetensors", "tokenizer.json"])
def test_the_checksums_of_a_model_are_compared(tmp_path: Path, name: str) -> None:
    bundle.save(tiny_model.bundle(), tmp_path / "bundle", torch.float32)
    path = tmp_path / "bundle" / name
    data = path.read_bytes()
    if name == "config.json":
        spoilt = data.replace(b'"decay": 0.99', b'"decay": 0.98')
    else:
        spoilt = data[:-200] + bytes([data[-200] ^ 1]) + data[-199:]
    assert spoilt != data
    path.write_bytes(spoilt)
    with pytest.raises(CheckpointError, match=f"bundle '.*bundle': {name} was altered"):
        load_tokenizers(tmp_path / "bundle")
