"""The tokenizer of captions against tokens that the reference program gave, and what must hold for any caption."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3.score.ptb import SIGNS, tokenize

# One file, in this order: captions written for this test, and the tokens that PTBTokenizer of stanford-corenlp-3.4.1
# gave for it with -preserveLines -lowerCase on Java 17 in UTF-8, less the signs that pycocoevalcap 1.2 takes away.
FILE = [
    ("A man (with a dog) isn't sleeping.", "a man -lrb- with a dog -rrb- is n't sleeping"),
    (
        "Two dogs' toys, the men's hats and it's 'cause they'll win",
        "two dogs toys the men 's hats and it 's 'cause they 'll win",
    ),
    ("She said \"hello\" to 'the man' and ``left''.", "she said hello to the man and left"),
    (
        "He cannot, gonna, wanna, lemme, dunno, 'tis 'twas d'you know y'all",
        "he can not gon na wan na lem me dunno 't is 't was d'you know y' all",
    ),
    (
        "black-and-white half-eaten/half-full T-shirt w/o and/or w/ 24/7",
        "black-and-white half-eaten/half-full t-shirt w/o and/or w / 24/7",
    ),
    (
        "a 10-year-old at 12:30 p.m., 5'10\" tall, $5.99, 50%, #1, 1,000.5 or -5",
        "a 10-year-old at 12:30 p.m. 5 10 tall $ 5.99 50 % # 1 1,000.5 or -5",
    ),
    (
        "call 555-1212, (555) 555-1212 or 555 1212 for 1 1/2 or 3-1/2 pies on 5/6/2014",
        "call 555-1212 -lrb-555-rrb-\xa0555-1212 or 555 1212 for 1\xa01/2 or 3-1/2 pies on 5/6/2014",
    ),
    (
        "Mr. Smith of St. Louis, U.S.A., e.g. Dr. X etc. and Inc. vs. Ph.D. men",
        "mr. smith of st. louis u.s.a. e.g. dr. x etc. and inc. vs. ph.d. men",
    ),
    (
        "No. 5 and no. five; fig. 3, Fig. three; sq. ft. and approx. 7",
        "no. 5 and no five fig. 3 fig three sq. ft. and approx 7",
    ),
    (
        "rock 'n' roll, o'clock, c'mon, rock'n'roll, O'Malley's, l'eau, Hawai'i, Cap'n",
        "rock 'n' roll o'clock c'mon rock 'n' roll o'malley 's l'eau hawai'i cap'n",
    ),
    (
        "caf\xe9 na\xefve \u201ccurly\u201d it\u2019s \u2018so\u2019 5\xb0 \xbd \u2014 "
        "a\u2013b \u2026 \xa35 \u20ac5 5\xa2 \U0001f600 ok",
        "caf\xe9 na\xefve curly it 's so 5 \xb0 1/2 a b # 5 $ 5 5 cents ok",
    ),
    (
        "end... of .... it . . . so?! wow!! wait -- no --- yes ---- ok -----",
        "end of it so ?! wow !! wait no yes ok -----",
    ),
    (
        "email me@mail.com: see www.google.com, google.com http://x.com/a?b=c. now @user #tag #a1",
        "email me@mail.com: see www.google.com google.com http://x.com/a?b=c now @user #tag #a 1",
    ),
    (
        "<b>bold</b> <a href='x y'>t</a> a < b > c &amp; &lt; [x] {y} ~ ^ | \\ * + = _ %",
        "<b> bold </b> <a\xa0href='x\xa0y'> t </a> a < b > c & < -lsb- x -rsb- -lcb- y -rcb- ~ ^ | \\ * + = _ %",
    ),
    (
        ":) :-( ;) :D ^_^ <3 C++ C# AT&T R&B B & B Yahoo! file.jpg a.b.c A380 3D x2",
        ":-rrb- :--lrb- ;-rrb- :d ^_^ < 3 c++ c# at&t r&b b & b yahoo file.jpg a.b.c a380 3d x2",
    ),
    ("a sign with the letter K.", "a sign with the letter k"),
    ("The letter K.", "the letter k."),
    ("the letter k.", "the letter k."),
    ("No.", "no."),
    ("5 men", "5 men"),
    ("", ""),
    ("   ", ""),
    ("etc.", "etc."),
    ("A.", "a."),
    ("I. am", "i. am"),
    ("the wall (so:)", "the wall -lrb- so -rrb-"),
]


def test_the_tokens_of_the_reference_program() -> None:
    found = tokenize([caption for caption, _ in FILE])
    for (caption, tokens), words in zip(FILE, found, strict=True):
        assert " ".join(words) == tokens, caption


@pytest.mark.parametrize(
    ("captions", "last"),
    [
        (["the letter K.", "The end"], "k"),  # a function word in a capital: the stop ends a sentence
        (["the letter K.", "", " ", "The end"], "k"),
        (["the letter K.", "the end"], "k."),
        (["the letter K.", "Theory"], "k."),
        (["the letter K.", "The"], "k."),  # no space after it, as the file ends there
        (["the letter K.", "The", ""], "k"),
        (["the letter K."], "k."),
        (["look at fig.", "3 men"], "fig."),
        (["look at fig.", "three men"], "fig"),
    ],
)
def test_the_next_caption_can_decide_the_last_word(captions: list[str], last: str) -> None:
    assert tokenize(captions)[0][-1] == last


def test_every_separator_of_lines_is_a_space() -> None:
    for sign in "\n\r\x0b\x0c\x85\u2028\u2029":
        assert tokenize([f"a{sign}dog", "x"]) == [("a", "dog"), ("x",)]


PIECES = (
    "a A I dog K. no. No. No 5 1/2 555 5. .5 . ... ( ) ' \" n't don't <b> < U.S. etc. The the x- -x :) @a 's,".split()
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([*PIECES, "", "\t", "\xa0"]), max_size=7).map(" ".join), min_size=1, max_size=4)
)
def test_reading_in_pieces_is_reading_whole(captions: list[str]) -> None:
    """A caption is read piece by piece where that can be; a tag, which changes nothing else, has it read whole."""
    marked = [f"<br> {caption}" for caption in captions]
    # The tag is one token before the caption, and for the caption before it the end of a sentence: so not there.
    for number, caption in enumerate(captions):
        after = captions[number + 1 :]
        assert ("<br>", *tokenize([caption, *after])[0]) == tokenize([marked[number], *after])[0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_text_has_words_without_signs(captions: list[str]) -> None:
    found = tokenize(captions)
    assert len(found) == len(captions)
    for words in found:
        assert all(word and word == word.lower() and " " not in word and word not in SIGNS for word in words)
