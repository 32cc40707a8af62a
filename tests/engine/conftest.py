"""A small decoder whose distributions are far from uniform, and prompts for it."""

from __future__ import annotations

import pytest
from engine_reference import make_decoder

from cm3.model.decoder import Decoder
from cm3.vocab import Vocab


@pytest.fixture(scope="session")
def vocab() -> Vocab:
    return Vocab(text=256, image=48, masks=4, reserved=2)


@pytest.fixture(scope="session", params=["learned", "rope"])
def decoder(request: pytest.FixtureRequest, vocab: Vocab) -> Decoder:
    return make_decoder(vocab, positions=request.param, qk_norm=request.param == "rope")


@pytest.fixture(scope="session")
def one_decoder(vocab: Vocab) -> Decoder:
    return make_decoder(vocab)
