"""A tiny model with drawn weights, which every word and code moves, and a way to give a command in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from command import Cm3, Ran
from tiny_model import stir

from cm3.cli.main import main
from cm3.model import bundle
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.scenes import Object, Scene, describe, draw, random_scene
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Vocab


@pytest.fixture
def cm3(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cm3:
    """Give a command, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str | Path) -> Ran:
        capfd.readouterr()
        code = main([str(a) for a in args])
        return Ran(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random weights: 64 px, 4 x 4 codes."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    texts = TextTokenizer.train([describe(random_scene(rng), rng) for _ in range(200)], 320)
    texts.save(folder / "tokenizer.json")
    torch.manual_seed(0)
    vocab = Vocab(text=texts.size, image=64, masks=32, reserved=0)
    codes = VQGANConfig(
        factor=16, channels=8, multipliers=(1, 1, 1), blocks=0, middle=False, attention=False, patch=4,
        z_channels=8, quantizer="fsq", codes=64, levels=(4, 4, 4), resample="shuffle",
    )  # fmt: skip
    shape = {"d_model": 32, "layers": 1, "heads": 2, "context": 256, "grid": (4, 4), "positions": "rope"}
    # Fresh, a decoder sees the last token alone: words and pictures mean nothing to it.
    decoder = stir(Decoder(DecoderConfig(vocab_size=vocab.size, **shape)))
    made = bundle.Bundle(
        vocab, decoder, VQGAN(codes), 64, folder / "tokenizer.json", sampling={"image": {"guidance": 2.0}}
    )
    bundle.save(made, folder / "model", torch.float32)
    return folder / "model"


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture file of 128 x 128 pixels."""
    path = tmp_path_factory.mktemp("picture") / "in.png"
    made: PIL.Image.Image = draw(Scene("sky", (Object("top left", "star", "red", "large"),)), 128)
    made.save(path)
    return path
