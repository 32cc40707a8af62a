"""Whatever is drawn: exactly n codes, no foreign id, text ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cm3.engine.grammar import Codes, Cursor, Force, FreeText, Step, check_plan, fed, ids_at, size
from cm3.errors import RequestError
from cm3.vocab import Vocab

VOCAB = Vocab(text=256, image=48, masks=4, reserved=2)

steps = st.one_of(
    st.lists(st.integers(0, VOCAB.size - 1), max_size=4).map(lambda ids: Force(tuple(ids))),
    st.lists(st.integers(1, 16), min_size=1, max_size=9).map(lambda cells: Codes(tuple(cells))),
    st.integers(1, 6).flatmap(
        lambda limit: st.builds(
            FreeText,
            limit=st.just(limit),
            end=st.lists(st.integers(0, 11), min_size=1, max_size=3).map(tuple),
            min_tokens=st.integers(0, limit),
        )
    ),
)
plans = st.lists(steps, min_size=1, max_size=5).map(tuple)


@given(plans, st.randoms(use_true_random=False))
def test_any_walk_follows_the_plan(plan: tuple[Step, ...], random: object) -> None:
    check_plan(plan, VOCAB, (4, 4))
    cursor = Cursor(plan, VOCAB)
    last_draw = 0
    while not cursor.done:
        last_draw = len(cursor.ids)
        width = sum(stop - start for start, stop in cursor.ranges)
        cursor.accept(int(ids_at(cursor.ranges, torch.tensor(random.randrange(width)))), -1.0)  # type: ignore[attr-defined]
    assert last_draw <= fed(plan) and len(cursor.ids) <= sum(map(size, plan))
    # Read the produced ids back against the plan.
    ids, cells, at, spans = cursor.ids, cursor.cells, 0, list(cursor.spans)
    for step in plan:
        if isinstance(step, Force):
            assert tuple(ids[at : at + len(step.ids)]) == step.ids
            at += len(step.ids)
            continue
        span = spans.pop(0)
        assert span.ids.tolist() == ids[at : at + span.length]
        if isinstance(step, Codes):
            assert span.cells.tolist() == list(step.cells) == cells[at : at + span.length]
            assert VOCAB.is_image(span.ids).all()
            at += span.length
        else:
            assert step.min_tokens <= span.length <= step.limit
            assert VOCAB.is_text(span.ids).all() and not span.cells.any()
            assert ids[at + span.length] in step.end
            if span.length == step.limit:
                assert ids[at + span.length] == step.end[0] or step.min_tokens == step.limit
            at += span.length + 1
    assert at == len(ids) and not spans
    assert len(cursor.reasons) == len(cursor.logprobs) == len(cursor.spans)


def test_columns_are_the_allowed_ids_in_order() -> None:
    cursor = Cursor((FreeText(3, end=(5, 2, 5)),), VOCAB)
    width = sum(stop - start for start, stop in cursor.ranges)
    ids = ids_at(cursor.ranges, torch.arange(-1, width)).tolist()
    assert ids == [-1, 2, 5, *range(VOCAB.text_start, VOCAB.image_start)]


def test_reasons_and_what_a_log_probability_counts() -> None:
    text, code = VOCAB.text_start, VOCAB.image_start
    cursor = Cursor((FreeText(2, end=(5,)), Force((4,)), FreeText(2, end=(2,)), Codes((7,))), VOCAB)
    cursor.accept(text, -1.0)
    cursor.accept(text, -1.0)  # the limit: <eoss> forced, then <break>
    assert cursor.ids == [text, text, 5, 4]
    cursor.accept(2, -3.0)  # the end, sampled
    cursor.accept(code, -0.5)
    assert cursor.reasons == ["limit", "end", "codes"]
    assert cursor.logprobs == [-2.0, -3.0, -0.5]
    assert cursor.cells == [0, 0, 0, 0, 0, 7]
    assert [s.ids.tolist() for s in cursor.spans] == [[text, text], [], [code]]


def test_forced_codes_carry_their_cells() -> None:
    cursor = Cursor((Force((VOCAB.image_start, 5), cells=(3, 0)),), VOCAB)
    assert cursor.done and cursor.tokens.cells.tolist() == [3, 0] and fed((Force((1, 2)),)) == 0


def test_fed_counts_what_stands_before_the_last_draw() -> None:
    assert fed((Codes.image(16), Force((2,)))) == 15
    assert fed((Force((6,)), FreeText(10, end=(5,)), Force((2,)))) == 10
    assert fed((FreeText(10, end=(4,)), Codes.image(4))) == 14


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Force((1, 2), cells=(1,)), "2 ids and 1 cells"),
        (lambda: Codes(()), "at least one cell"),
        (lambda: Codes((0, 1)), "1 \\+ raster index"),
        (lambda: FreeText(0, end=(2,)), "FreeText.limit=0: must be an integer, at least 1"),
        (lambda: FreeText(2.5, end=(2,)), "FreeText.limit=2.5: must be an integer"),  # type: ignore[arg-type]
        (lambda: FreeText(True, end=(2,)), "FreeText.limit=True: must be an integer"),
        (lambda: FreeText(3, end=(2,), min_tokens=4), "FreeText.min_tokens=4: must be an integer, 0 to 3"),
        (lambda: FreeText(3, end=(2.7,)), "FreeText.end=2.7: must be an integer"),  # type: ignore[arg-type]
        (lambda: FreeText(3, end=2), "FreeText.end=2: must be a tuple of integers"),  # type: ignore[arg-type]
        (lambda: Force((float("nan"),)), "Force.ids=nan: must be an integer"),  # type: ignore[arg-type]
        (lambda: Force((2,), cells=(0.5,)), "Force.cells=0.5: must be an integer"),  # type: ignore[arg-type]
        (lambda: Codes((1, 2.5)), "Codes.cells=2.5: must be an integer"),  # type: ignore[arg-type]
        (lambda: Codes("12"), "Codes.cells='12': must be a tuple of integers"),  # type: ignore[arg-type]
        (lambda: FreeText(3, end=()), "end=\\(\\)"),
        (lambda: check_plan((), VOCAB), "plan=\\(\\)"),
        (lambda: check_plan((5,), VOCAB), "int is not one of"),  # type: ignore[arg-type]
        (lambda: check_plan((FreeText(3, end=(VOCAB.text_start,)),), VOCAB), "not a special id"),
        (lambda: check_plan((Force((VOCAB.size,)),), VOCAB), "outside the vocabulary"),
        (lambda: check_plan((Codes.image(17),), VOCAB, (4, 4)), "cell 17 is outside the model's 4 x 4 grid"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(make: object, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make()  # type: ignore[operator]


def test_numpy_integers_are_welcome() -> None:
    step = Codes(tuple(np.arange(1, 4)))
    assert step == Codes((1, 2, 3)) and hash(step) == hash(Codes((1, 2, 3)))
