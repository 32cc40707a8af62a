"""Training, encoders and measurements compute where they are put, and give there what they give on a processor."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiny_model
import torch
from second_device import DEVICE, SecondDevice
from small_run import VOCAB, Others, Pairs, config

from cm3.data.prepare import prepare
from cm3.model.bundle import save
from cm3.model.lpips import LPIPS
from cm3.parallel import Mesh
from cm3.retrieval.pairs import Pair, PairEncoder, PairsConfig
from cm3.retrieval.pairs import Pairs as Towers
from cm3.score.reconstruction import score_reconstruction
from cm3.store.store import Store
from cm3.train.clip_trainer import PairTrainConfig, PairTrainer
from cm3.train.image_tokenizer import ImageTokenizerConfig, ImageTokenizerTrainer
from cm3.train.optim import OptimConfig
from cm3.train.trainer import Trainer

PIXELS = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
PICTURES = [
    PIL.Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 32, 3), dtype=np.uint8)) for i in range(4)
]
TOWERS = PairsConfig(width=16, words=8, letters=4, letter_dim=4, d_model=16, layers=1, heads=2, channels=(8, 8, 16))


def alike(here: Sequence[Mapping[str, float]], there: Sequence[Mapping[str, float]]) -> None:
    """Compare records up to the rounding of another order of sums."""
    assert len(here) == len(there)
    for a, b in zip(here, there, strict=True):
        assert a.keys() == b.keys()
        assert [b[name] for name in a] == pytest.approx([a[name] for name in a], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("quantizer", "more"),
    [
        ("fsq", {"gan_weight": 0.5}),
        ("fsq", {"optimizer": "muon"}),
        ("vq", {}),
        ("ema", {}),
        ("l2", {}),
        ("gumbel", {}),
    ],
)
def test_steps_of_an_image_tokenizer(tmp_path: Path, quantizer: str, more: dict[str, Any]) -> None:
    of = {} if quantizer == "fsq" else {"levels": (), "code_dim": 4, "restart_after": 3}
    shape = replace(tiny_model.SHAPE, quantizer=quantizer, **of)
    records = []
    with SecondDevice():
        for device in (torch.device("cpu"), DEVICE):
            out = str(tmp_path / device.type)
            c = ImageTokenizerConfig(out=out, vqgan=shape, size=32, batch=4, steps=3, dtype="float32", **more)
            trainer = ImageTokenizerTrainer(c, lambda step: PIXELS, mesh=Mesh((1, 1, 1), 0, device, None))
            records.append([trainer.advance() for _ in range(3)])
            assert trainer.vqgan.encoder.conv_in.weight.device == device
    alike(*records)


def test_steps_of_a_small_clip(tmp_path: Path) -> None:
    pairs = [Pair(f"text {i}", picture, f"other {i}") for i, picture in enumerate(PICTURES)]
    records = []
    with SecondDevice():
        for device in (torch.device("cpu"), DEVICE):
            c = PairTrainConfig(out=str(tmp_path / device.type), model=TOWERS, batch=4, steps=3, dtype="float32")
            trainer = PairTrainer(c, lambda step: pairs, mesh=Mesh((1, 1, 1), 0, device, None))
            records.append([trainer.advance() for _ in range(3)])
    alike(*records)


@pytest.mark.parametrize("optim", [OptimConfig(), OptimConfig(name="muon", lr=0.02, adam_lr=0.02, warmup=1)])
def test_steps_and_validation_of_a_language_model(
    tmp_path: Path, optim: OptimConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch has a list of the names of devices with fused kernels of Adam, on which this one is not.
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *args, **more: None)
    shape = {"kv_heads": 1, "norm": "rms", "activation": "swiglu", "qk_norm": True, "positions": "rope"}
    records = []
    with SecondDevice():
        for device in (torch.device("cpu"), DEVICE):
            c = config(tmp_path / device.type, optim=optim, steps=3, log_every=1, z_loss=1e-4, text_weight=2.0)
            c = replace(c, model=replace(c.model, **shape))
            trainer = Trainer(c, VOCAB, Pairs(), mesh=Mesh((1, 1, 1), 0, device, None), validation=Others())
            assert trainer.model.device == device
            records.append([trainer.advance() for _ in range(3)] + [trainer.validate()])
            assert trainer.whole() is trainer.model
    alike(*records)


def test_encoders_and_measurements() -> None:
    torch.manual_seed(0)
    towers, metric = Towers(TOWERS), LPIPS()
    texts = ["a b", "c", ""]
    with SecondDevice():
        here = PairEncoder(copy.deepcopy(towers), "pairs:test")
        there = PairEncoder(towers, "pairs:test", device=str(DEVICE))
        np.testing.assert_allclose(there.texts(texts), here.texts(texts), atol=1e-4)
        np.testing.assert_allclose(there.images(PICTURES), here.images(PICTURES), atol=1e-4)
        moved = copy.deepcopy(metric).to(DEVICE)
        want = metric(PIXELS[:2], PIXELS[2:])
        torch.testing.assert_close(moved(PIXELS[:2].to(DEVICE), PIXELS[2:].to(DEVICE)).cpu(), want)
        vqgan = copy.deepcopy(tiny_model.vqgan())
        given = [([str(i) for i in range(len(PIXELS))], PIXELS)]
        report = score_reconstruction(tiny_model.vqgan(), given).figures
        assert score_reconstruction(vqgan.to(DEVICE), given).figures == pytest.approx(dict(report))


def test_a_store_is_prepared_on_another_device(tmp_path: Path) -> None:
    save(tiny_model.bundle(), tmp_path / "model", torch.float32)
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, picture in enumerate(PICTURES):
        picture.save(photos / f"{i}.png")
        (photos / f"{i}.txt").write_text(f"picture {i}")
    found = []
    with SecondDevice():
        for device in ("cpu", str(DEVICE)):
            prepare([str(photos)], tmp_path / device.replace(":", ""), tmp_path / "model", device=device)
            store = Store.open(tmp_path / device.replace(":", ""))
            found.append([one.ids.tolist() for one in store.tokens(range(4))])
    assert found[0] == found[1] and len(found[0]) == 4
