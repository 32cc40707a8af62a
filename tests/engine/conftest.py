"""A small decoder whose distributions are far from uniform, and prompts for it."""

from __future__ import annotations

import pytest
import torch

from cm3.model.decoder import Decoder, DecoderConfig
from cm3.vocab import Vocab


@pytest.fixture(scope="session")
def vocab() -> Vocab:
    return Vocab(text=256, image=48, masks=4, reserved=2)


def make_decoder(vocab: Vocab, **settings: object) -> Decoder:
    """Random weights, scaled so that logits spread by about 2. float64, so that batching cannot round differently."""
    config = DecoderConfig(
        **{"vocab_size": vocab.size, "d_model": 32, "layers": 2, "heads": 4, "context": 192, "grid": (4, 4)} | settings
    )
    torch.manual_seed(0)
    decoder = Decoder(config)
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if weight.dim() > 1:
                scale = 0.35 if name.startswith("embed") else 0.25
                weight.copy_(torch.randn_like(weight) * scale)
    return decoder.double().eval()


@pytest.fixture(scope="session", params=["learned", "rope"])
def decoder(request: pytest.FixtureRequest, vocab: Vocab) -> Decoder:
    return make_decoder(vocab, positions=request.param, qk_norm=request.param == "rope")


@pytest.fixture(scope="session")
def one_decoder(vocab: Vocab) -> Decoder:
    return make_decoder(vocab)
