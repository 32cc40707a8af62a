"""The policy of number types: a setting, what a device can, and what it is for give one type and its reason."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from cm3 import precision
from cm3.precision import FLOATS, TRAINED, for_drawing, for_training, has_bfloat16
from cm3.weights import on_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("name", FLOATS[1:])
def test_a_type_that_is_set_is_taken(name: str) -> None:
    for device in (CPU, CUDA):
        assert for_drawing(name, device) == (name, "as set")
        if name in TRAINED:
            assert for_training(name, device) == (name, "as set")
    assert for_drawing(name, CPU).dtype == getattr(torch, name)


@pytest.mark.parametrize(
    ("times", "name"), [(6.7, "bfloat16"), (2.01, "bfloat16"), (2.0, "float32"), (0.13, "float32")]
)
def test_a_processor_trains_in_what_the_probe_finds(monkeypatch: pytest.MonkeyPatch, times: float, name: str) -> None:
    monkeypatch.setattr(precision, "probed", lambda: times)
    found = for_training("auto", CPU)
    assert found.name == name and found.dtype == getattr(torch, name)
    assert found.why == f"bfloat16 is {times:.2g} times as fast as float32 on this processor"
    # Steps of one token gain nothing by it.
    assert for_drawing("auto", CPU).name == "float32"
    assert on_device(nn.Linear(2, 2), "cpu", "auto").weight.dtype == torch.float32


@pytest.mark.parametrize(("native", "name"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_computes_in_what_its_driver_says(monkeypatch: pytest.MonkeyPatch, native: bool, name: str) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: (asked.append(including_emulation), native)[1]
    )
    for found in (for_training("auto", CUDA), for_drawing("auto", CUDA)):
        assert found.name == name and found.why.startswith("the GPU ")
    assert asked == [False, False], "emulated is not native"


def test_no_other_device_is_taken_to_have_it() -> None:
    assert has_bfloat16(torch.device("meta")) == (False, "not looked into on meta")
    assert for_training("auto", torch.device("mps")).name == "float32"


def test_the_probe_measures_both_types_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    inner = precision.F.linear
    monkeypatch.setattr(precision.F, "linear", lambda x, w: (seen.append(x.dtype), inner(x, w))[1])
    before = torch.get_rng_state()
    precision.probed.cache_clear()
    times = precision.probed()
    assert torch.equal(torch.get_rng_state(), before)
    assert times > 0 and precision.probed() == times, "asked once"
    assert seen.count(torch.float32) == seen.count(torch.bfloat16) in range(2, precision.TRIES + 1)
    assert has_bfloat16(CPU)[0] == (times > precision.ENOUGH)


def test_the_probe_is_the_ratio_of_the_best_times(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([9.0, 8.0, 4.0, 2.0, 6.0, 1.0, 5.0, 3.0])
    monkeypatch.setattr(precision, "_seconds", lambda x, weight: next(given))
    monkeypatch.setattr(precision, "TRIES", 4)
    monkeypatch.setattr(precision, "PATIENCE", 1e9)
    precision.probed.cache_clear()
    try:
        assert precision.probed() == 4.0
    finally:
        precision.probed.cache_clear()
