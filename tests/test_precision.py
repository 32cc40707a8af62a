"""The policy of number types: a setting, what a device can, and what it is for give one type and its reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import tiny_model
import torch
from torch import nn

from cm3 import precision
from cm3.generate import CM3Leon
from cm3.precision import FLOATS, TRAINED, for_drawing, for_training, has_bfloat16
from cm3.weights import on_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool | None], None]:
    """What is known of a processor's instructions: at first nothing, so that the probe is asked."""

    def tell(there: bool | None) -> None:
        monkeypatch.setattr(precision.platform, "machine", lambda: "arm64" if there is None else "x86_64")
        names = ["avx2", "amx_bf16"] if there else ["avx2"]
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True), raising=False)

    tell(None)
    return tell


def test_a_processor_without_the_instructions_is_not_probed(
    monkeypatch: pytest.MonkeyPatch, known: Callable[[bool | None], None]
) -> None:
    """A probe on a busy machine once found 3.7 where bfloat16 was emulated: training took ten times as long."""
    monkeypatch.setattr(precision, "probed", lambda: 3.7)
    assert has_bfloat16(CPU)[0]
    known(True)
    assert has_bfloat16(CPU)[0]
    known(False)
    assert has_bfloat16(CPU) == (False, "this processor has no instructions for bfloat16")
    assert for_training("auto", CPU).name == for_drawing("auto", CPU, (512, 10**8)).name == "float32"
    assert for_training("bfloat16", CPU) == ("bfloat16", "as set")


@pytest.mark.parametrize("name", FLOATS[1:])
def test_a_type_that_is_set_is_taken(name: str) -> None:
    for device in (CPU, CUDA):
        assert for_drawing(name, device) == (name, "as set")
        if name in TRAINED:
            assert for_training(name, device) == (name, "as set")
    assert for_drawing(name, CPU).dtype == getattr(torch, name)


@pytest.mark.parametrize(
    ("times", "name"), [(6.7, "bfloat16"), (2.0, "bfloat16"), (1.31, "bfloat16"), (1.3, "float32"), (0.13, "float32")]
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


@pytest.mark.parametrize(
    ("native", "times", "name"), [(6.7, 1.3, "bfloat16"), (6.7, 1.25, "float32"), (1.0, 9.0, "float32")]
)
def test_a_processor_draws_in_what_is_faster_for_the_model(
    monkeypatch: pytest.MonkeyPatch, native: float, times: float, name: str
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(precision, "probed", lambda: native)
    monkeypatch.setattr(precision, "streamed", lambda *shape: (asked.append(shape), times)[1])
    model = CM3Leon(tiny_model.bundle(), dtype="auto")
    assert model.number_type.name == name and next(model.decoder.parameters()).dtype == getattr(torch, name)
    shape = model.decoder.config.d_model, sum(p.numel() for p in model.decoder.parameters())
    assert asked == ([shape] if native > 1.3 else [])
    said = (
        f"are {times:.2g} times as fast in bfloat16" if native > 1.3 else "bfloat16 is 1 times as fast as float32 on "
    )
    assert said in model.number_type.why
    # A picture is drawn in either.
    assert model.generate("a red circle", seed=1).image is not None


def test_what_a_model_computes_in_is_told_and_int8_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "probed", lambda: 0.5)
    assert CM3Leon(tiny_model.bundle(), dtype="auto").number_type.name == "float32"
    assert CM3Leon(tiny_model.bundle()).number_type == ("float32", "the weights are in it")
    assert CM3Leon(tiny_model.bundle(), dtype=torch.bfloat16).number_type == ("bfloat16", "as set")
    small = CM3Leon(tiny_model.bundle(), dtype="int8")
    assert small.number_type == ("int8", "as set")
    assert CM3Leon(small.bundle, dtype="auto").number_type == ("int8", "the weights are stored in it")


def test_the_second_probe_reads_as_many_weights_as_the_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.dtype, int]] = []
    inner = precision.F.linear
    monkeypatch.setattr(precision.F, "linear", lambda x, w: (seen.append((w.dtype, w.numel())), inner(x, w))[1])
    monkeypatch.setattr(precision, "PATIENCE", 0.0)
    precision.streamed.cache_clear()
    assert precision.streamed(32, 12_288) > 0
    for kind in (torch.float32, torch.bfloat16):  # two rounds
        assert [n for k, n in seen if k == kind] == [4096] * 6
    precision.streamed.cache_clear()
