"""A small decoder whose distributions are far from uniform, and prompts for it."""

from __future__ import annotations

import pytest
from engine_reference import make_decoder

from cm3.model.decoder import Decoder
from cm3.vocab import Vocab


@pytest.fixture(scope="session")
def vocab() -> Vocab:
    return Vocab(text=256, image=48, masks=4, reserved=2)


@pytest.fixture(scope="session", params=["learned", "rope", "near"])
def decoder(request: pytest.FixtureRequest, vocab: Vocab) -> Decoder:
    positions = "learned" if request.param == "learned" else "rope"
    near = 2.0 if request.param == "near" else 0.0
    return make_decoder(vocab, positions=positions, qk_norm=positions == "rope", near=near)


@pytest.fixture(scope="session")
def one_decoder(vocab: Vocab) -> Decoder:
    return make_decoder(vocab)
