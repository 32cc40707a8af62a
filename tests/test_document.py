"""Which strings are text."""

from __future__ import annotations

import pytest

from cm3.document import check_text
from cm3.errors import DataError


@pytest.mark.parametrize("text", ["", "a red circle", "\u4e2d\u6587 \U0001f600 e\u0301", "\t\n\x7f\x01 \ufffd\ufffe"])
def test_text_is_let_through(text: str) -> None:
    check_text(text)
    assert text.encode().decode() == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ab\ud800c", r"^its text has a lone surrogate U\+D800, which is no character \(at 2\); take it out$"),
        ("\udfff", r"U\+DFFF"),
        ("\ud83d \ude00", r"U\+D83D"),
        ("a\x00", r"has a NUL character \(at 1\); take it out$"),
    ],
)
def test_what_is_no_text_is_refused(text: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        check_text(text)
    with pytest.raises(DataError, match="^its id has "):
        check_text(text, "its id")
