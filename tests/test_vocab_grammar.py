"""Vocabularies of both grammars: what may be set, and what is written of one."""

from __future__ import annotations

from typing import Any

import pytest

from cm3.errors import ConfigError
from cm3.files import build
from cm3.vocab import Vocab


def test_a_vocabulary_of_before_is_written_and_read_as_before() -> None:
    vocab = Vocab(text=300, image=16, masks=4, reserved=2)
    assert vocab.to_dict() == {"text": 300, "image": 16, "masks": 4, "reserved": 2}
    assert build(Vocab, vocab.to_dict(), "vocab") == vocab and vocab.opens == vocab.eos


def test_a_vocabulary_of_chameleon_comes_back() -> None:
    vocab = Vocab(text=300, image=16, masks=0, reserved=2, grammar="chameleon", turn=7)
    assert build(Vocab, vocab.to_dict(), "vocab") == vocab and vocab.opens == vocab.bos
    assert [vocab.name(i) for i in (5, 6, 7, 8)] == ["<eoss>", "<reserved:0>", "<reserved:1>", "text:0"]
    with pytest.raises(ConfigError, match="<mask:0>: this vocabulary has no masks"):
        vocab.mask(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"masks": 0}, "vocab.masks=0: must be at least 1 where vocab.grammar is 'cm3'"),
        ({"grammar": "lumina"}, "vocab.grammar='lumina': must be 'cm3' or 'chameleon'"),
        ({"grammar": "chameleon", "masks": 0, "turn": 5}, "vocab.turn=5: must be a reserved id, 6 to 7, or None"),
        ({"grammar": "chameleon", "masks": 0, "turn": 8}, "vocab.turn=8: must be a reserved id, 6 to 7, or None"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Vocab(**{"text": 300, "image": 16, "masks": 4, "reserved": 2} | fields)
