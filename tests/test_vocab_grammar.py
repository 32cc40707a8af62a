"""Vocabularies of both grammars: what may be set, and what is written of one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cm3.errors import ConfigError
from cm3.files import build
from cm3.vocab import Marks, Vocab

LUMINA = {"grammar": "chameleon", "masks": 0, "reserved": 4, "turn": 7, "marks": Marks(6, 9, 8)}


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
    assert vocab.begins == (vocab.brk,)


def test_marks_come_back() -> None:
    vocab = Vocab(**{"text": 300, "image": 16} | LUMINA)
    assert vocab.to_dict()["marks"] == {"height": 6, "width": 9, "row": 8}
    assert build(Vocab, json.loads(json.dumps(vocab.to_dict())), "vocab") == vocab
    assert vocab.begins == (vocab.brk, 6, 9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"masks": 0}, "vocab.masks=0: must be at least 1 where vocab.grammar is 'cm3'"),
        ({"grammar": "lumina"}, "vocab.grammar='lumina': must be 'cm3' or 'chameleon'"),
        ({"grammar": "chameleon", "masks": 0, "turn": 5}, "vocab.turn=5: must be a reserved id, 6 to 7, or None"),
        ({"grammar": "chameleon", "masks": 0, "turn": 8}, "vocab.turn=8: must be a reserved id, 6 to 7, or None"),
        ({"marks": Marks(6, 6, 7)}, "vocab.marks: are of pictures in the grammar 'chameleon' with turns"),
        (LUMINA | {"turn": None}, "vocab.marks: are of pictures in the grammar 'chameleon' with turns"),
        (LUMINA | {"reserved": 2}, "vocab.marks=.*: must be reserved ids, 6 to 7"),
        (LUMINA | {"marks": Marks(6, 8, 8)}, "row must be neither height nor width, and none the turn"),
        (LUMINA | {"marks": Marks(6, 7, 8)}, "row must be neither height nor width, and none the turn"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Vocab(**{"text": 300, "image": 16, "masks": 4, "reserved": 2} | fields)
