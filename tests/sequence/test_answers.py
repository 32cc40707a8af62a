"""Answers: a training sequence is what the engine's plan writes after the opening of the same prompt."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3.document import Document, Gap, Image, Text
from cm3.engine.grammar import Cursor
from cm3.generate.answer_plan import plan, room
from cm3.sequence.answers import Weighted, answered, continued, opening, weighted_tail
from cm3.sequence.holes import before_hole, join, space_before
from cm3.sequence.mask import cm3_unmask
from cm3.sequence.segments import image_tokens, text_tokens
from cm3.vocab import Tokens

SHADES = [Image(PIL.Image.new("RGB", (32, 32), colour)) for colour in ("red", "navy")]
WORDS = st.text("ab c.", min_size=1, max_size=6)
PARTS = st.lists(st.one_of(WORDS, st.sampled_from([*SHADES, Gap(), Gap("image")])), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(PARTS, st.integers(0, 2**32 - 1))
def test_the_engine_writes_what_is_trained_on(parts: list[str | Image | Gap], seed: int) -> None:
    codec, rng = tiny_model.codec(), np.random.default_rng(seed)
    v, prompt = codec.vocab, codec.encode_prompt(Document.of(*parts))
    spans = [
        text_tokens(rng.integers(0, codec.text.size, rng.integers(1, 6)).tolist(), v)
        if hole.kind == "text"
        else image_tokens(rng.integers(0, 64, (4, 4)), v)
        for hole in prompt.holes
    ]
    start = opening(prompt, v)
    tails = [weighted_tail(i, span, v, 2.0, 0.5) for i, span in enumerate(spans)]
    trained = Weighted.concat([Weighted.of(start, 0.5), *tails])
    if continued(prompt, v):
        trained = answered(prompt, spans[0], v, rest=0.5)
    elif len(spans) == 1:
        alone = answered(prompt, spans[0], v, rest=0.5)
        assert alone.tokens.ids.tolist() == trained.tokens.ids.tolist()
        assert alone.weights.tolist() == np.minimum(trained.weights, 1).tolist()
    ids, cells = trained.tokens
    assert trained.weights.dtype == np.float32 and len(trained.weights) == len(ids)
    # What weighs more is the spans, each with the token that ends it.
    written = np.flatnonzero(trained.weights > 0.5)
    ends = [v.eos if continued(prompt, v) else v.eoss] * len(spans)
    asked = [[*span.ids.tolist(), end] for span, end in zip(spans, ends, strict=True)]
    assert ids[written].tolist() == [i for one in asked for i in one]
    if spans:
        # The engine, given the very same ids, writes the very same sequence and needs no more room than was counted.
        steps = plan(prompt, v, 400, 6, start.length, 1)
        cursor = Cursor(steps, v)
        for hole, one in zip(prompt.holes, asked, strict=True):
            for token in one if hole.kind == "text" else one[:-1]:
                cursor.accept(token)
        made = Tokens.concat([start, cursor.tokens])
        assert cursor.done
        ended = made.length  # a picture that is continued is closed by no </s>
        assert ended >= len(ids) - (continued(prompt, v) and prompt.holes[0].kind == "image")
        assert made.ids.tolist() == ids[:ended].tolist() and made.cells.tolist() == cells[:ended].tolist()
        texts = [hole for hole in prompt.holes if hole.kind == "text"]
        most = start.length + sum(6 if h in texts else 16 for h in prompt.holes)
        most += 0 if continued(prompt, v) else 2 * len(spans)
        assert room(prompt, v, 400, 6, 0) == 400 - most
    filled = codec.unmask(prompt, [span.ids for span in spans])
    whole = trained.tokens if continued(prompt, v) else cm3_unmask(trained.tokens, v)
    assert filled.ids.tolist() == whole.ids.tolist() and filled.cells.tolist() == whole.cells.tolist()


@given(st.text("ab ", max_size=5), st.text("ab", min_size=1, max_size=3), st.text("ab ", max_size=5))
def test_an_answer_with_its_space_closes_to_the_text(before: str, answer: str, after: str) -> None:
    source, space = before_hole(before)
    assert source + space == before and space in ("", " ")
    assert space_before(Text(before)) == space
    assert join([before, (space + answer).encode(), after]) == before + answer + after


@pytest.mark.parametrize("part", [None, SHADES[0], Gap()])
def test_there_is_no_space_after_what_is_no_text(part: object) -> None:
    assert space_before(part) == ""


def test_codes_hidden_in_one_piece_are_hidden_in_the_whole() -> None:
    tokens = [Tokens.of([1, 2, 3]), Tokens.of([4, 5])]
    plain, hidden = Weighted.of(tokens[0]), Weighted.of(tokens[1])._replace(shown=np.asarray([4, 9], np.int32))
    assert Weighted.concat([plain, plain]).shown is None
    joined = Weighted.concat([plain, hidden])
    assert joined.shown is not None and joined.shown.tolist() == [1, 2, 3, 4, 9]
    assert joined.tokens.ids.tolist() == [1, 2, 3, 4, 5]


def test_what_is_left_out_of_one_piece_is_left_out_of_the_whole() -> None:
    tokens = [Tokens.of([1, 2, 3]), Tokens.of([4, 5])]
    plain, thin = Weighted.of(tokens[0]), Weighted.of(tokens[1])._replace(kept=np.asarray([True, False]))
    assert Weighted.concat([plain, plain]).kept is None
    joined = Weighted.concat([plain, thin, plain])
    assert joined.kept is not None and joined.kept.tolist() == [True, True, True, True, False, True, True, True]
    assert joined.tokens.length == 8 and joined.length == 7 and plain.length == 3
