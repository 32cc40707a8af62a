"""Settings and requests out of range are refused with the rule and the remedy."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from cm3.engine.grammar import Codes, FreeText
from cm3.engine.request import Request, Sampling
from cm3.errors import ConfigError, RequestError
from cm3.vocab import Tokens


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"temperature": -0.1}, "at least 0"),
        ({"temperature": float("nan")}, "at least 0"),
        ({"temperature": float("inf")}, "at least 0"),
        ({"top_p": 0.0}, "above 0 and at most 1"),
        ({"top_p": 1.1}, "above 0 and at most 1"),
        ({"guidance": float("inf")}, "finite"),
        ({"image_guidance": float("nan")}, "finite"),
        ({"contrast": "kmx"}, "Did you mean 'kmax'"),
        ({"alpha": 1.5}, "from 0 to 1"),
        ({"k": 0}, "at least 1"),
        ({"amateur_temperature": 0.0}, "above 0"),
        ({"seed": -1}, "2\\*\\*63"),
        ({"seed": 2**63}, "2\\*\\*63"),
    ],
)
def test_settings_out_of_range_are_refused(field: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"sampling.{next(iter(field))}=.*{message}"):
        Sampling(**field)


BAD: dict[str, list[Any]] = {
    "temperature": [True, "0.5", None, [1.0], 1j, Decimal("0.5"), 10**400, np.float32("nan"), np.array(0.5)],
    "top_p": [True, "1", None, -0.0, float("nan"), 10**5000],
    "guidance": [True, "3", float("nan"), float("-inf"), 1e39, -(10**400), 1.1e6],
    "image_guidance": [False, 1e300, np.float64("inf")],
    "alpha": [True, -1e-9, None, "a" * 100],
    "amateur_temperature": [1e-310, 1e-7, 1e7, float("inf"), np.bool_(True)],
    "k": [0, -1, 2.0, 2.5, True, "2", None, float("nan"), np.float64(2), np.bool_(True)],
    "seed": [-1, 2**63, 0.0, 1.5, False, "1", None, 10**5000],
    "contrast": ["", "KMAX", 1, True, ["max"], np.array(["max", "max"])],
}


@pytest.mark.parametrize("name", BAD)
def test_every_other_kind_of_number_is_refused_in_a_short_line(name: str) -> None:
    for value in BAD[name]:
        with pytest.raises(ConfigError, match=rf"^sampling\.{name}=.*: must be ") as told:
            Sampling(**{name: value})
        assert len(str(told.value)) < 140 and "\n" not in str(told.value)


def test_numbers_of_numpy_and_fractions_are_taken_as_they_are() -> None:
    made = Sampling(
        temperature=np.float32(0.5),
        top_p=Fraction(1, 2),
        guidance=np.int64(3),
        alpha=-0.0,
        k=np.uint8(4),
        seed=np.int64(5),
    )
    assert made == Sampling(temperature=0.5, top_p=0.5, guidance=3.0, alpha=0.0, k=4, seed=5)
    assert [type(v) for v in (made.temperature, made.top_p, made.guidance, made.k, made.seed)] == [float] * 3 + [
        int
    ] * 2
    assert str(Sampling(temperature=-0.0).temperature) == "0.0" and Sampling(temperature=1).temperature == 1.0


def test_greedy_is_below_a_millionth() -> None:
    assert [Sampling(temperature=t).greedy for t in (0.0, 1e-310, 9e-7, 1e-6, 0.5)] == [True, True, True, False, False]


def test_weights_of_the_streams() -> None:
    assert Sampling().weights(1) == (1.0,)
    assert Sampling(guidance=3.0).weights(2) == (3.0, -2.0)
    assert Sampling(guidance=7.5, image_guidance=1.5).weights(3) == (7.5, -0.5, -6.0)
    assert Sampling(contrast="kmax").weights(2) == (1.0, -1.0)
    assert Sampling(contrast="kmax", guidance=1.0).weights(1) == (1.0,)


@pytest.mark.parametrize(
    ("sampling", "streams", "message"),
    [
        (Sampling(guidance=3.0), 1, "guidance=3.0: needs a second stream"),
        (Sampling(contrast="max"), 1, "needs a second stream to contrast with"),
        (Sampling(guidance=3.0, image_guidance=2.0), 2, "needs three streams, this request has 2"),
        (Sampling(contrast="kmax", image_guidance=5.0), 3, "image_guidance=5.0: has no place in the contrastive score"),
    ],
)
def test_guidance_without_its_stream_is_refused(sampling: Sampling, streams: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        sampling.weights(streams)


def test_streams_are_checked() -> None:
    plan = (Codes((1,)),)
    with pytest.raises(RequestError, match="4 streams; must be 1, 2 or 3"):
        Request((Tokens.of([2]),) * 4, plan)
    with pytest.raises(RequestError, match="0 streams"):
        Request((), plan)
    with pytest.raises(RequestError, match="streams\\[1\\] is empty"):
        Request((Tokens.of([2]), Tokens.of([])), plan)
    for wrong in (np.array([2.5]), np.array([[2]], np.int32), np.array(2), [2]):
        with pytest.raises(RequestError, match="streams\\[0\\] must be Tokens, ids and cells as one row of integers"):
            Request((Tokens(wrong, wrong),), plan)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="streams\\[0\\] must be Tokens"):
        Request(([2],), plan)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="request: sampling=None: must be a Sampling"):
        Request((Tokens.of([2]),), plan, None)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="request: text_sampling=0.5: must be a Sampling"):
        Request((Tokens.of([2]),), plan, text_sampling=0.5)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="1 ids and 2 cells"):
        Request((Tokens(np.array([2], np.int32), np.zeros(2, np.int32)),), plan)


def test_text_has_its_own_settings_where_they_are_given() -> None:
    image, text = Sampling(seed=1), Sampling(seed=2)
    request = Request((Tokens.of([2]),), (Codes((1,)),), image, text)
    assert request.sampling_of(Codes((1,))) is image
    assert request.sampling_of(FreeText(3, end=(2,))) is text
    assert Request(request.streams, request.plan, image).sampling_of(FreeText(3, end=(2,))) is image
