"""A bundle in half precision is loaded as that: no weight of its decoder is ever whole in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import cm3
from cm3.errors import ConfigError
from cm3.model import bundle
from cm3.model.int8 import read_in


class Made(TorchDispatchMode):
    """Notes the largest tensor of float32 that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float32 and out.device.type != "meta":
            self.most = max(self.most, out.numel())
        return out


@pytest.fixture
def halved(tmp_path: Path) -> Path:
    made = tiny_model.bundle()
    tiny_model.stir(made.decoder)
    bundle.save(made, tmp_path / "half", torch.bfloat16)
    return tmp_path / "half"


def wide(folder: Path) -> int:
    return bundle.load(folder, weights=False).decoder.embed.weight.numel()


def test_weights_come_as_they_are_stored(halved: Path) -> None:
    stored = load_file(halved / "decoder.safetensors")
    with Made() as seen:
        got = bundle.load(halved, dtype=lambda config: torch.bfloat16).decoder
    assert seen.most < wide(halved)
    state = got.state_dict()
    assert state.keys() == stored.keys()
    assert all(state[n].dtype == torch.bfloat16 and torch.equal(state[n], t) for n, t in stored.items())
    with Made() as seen:
        bundle.load(halved)
    assert seen.most >= wide(halved), "this test sees what it is to see"


def test_a_model_is_loaded_in_its_type(halved: Path) -> None:
    with Made() as seen:
        model = cm3.load(halved, dtype="bfloat16")
    assert seen.most < wide(halved)
    assert model.number_type == ("bfloat16", "as set")
    assert {p.dtype for p in model.decoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.bundle.vqgan.parameters()} == {torch.float32}
    assert {p.dtype for p in cm3.load(halved).decoder.parameters()} == {torch.float32}


def test_it_is_saved_as_it_was(halved: Path, tmp_path: Path) -> None:
    got = bundle.load(halved, dtype=lambda config: torch.bfloat16)
    before = {name: value.clone() for name, value in got.decoder.state_dict().items()}
    with Made() as seen:
        bundle.save(got, tmp_path / "again", torch.bfloat16)
    assert seen.most < wide(halved)
    assert (tmp_path / "again/decoder.safetensors").read_bytes() == (halved / "decoder.safetensors").read_bytes()
    assert all(torch.equal(before[name], value) for name, value in got.decoder.state_dict().items())


def test_a_decoder_that_is_laid_out_is_saved_whole(halved: Path, tmp_path: Path) -> None:
    got = bundle.load(halved, dtype=lambda config: torch.bfloat16)
    got.decoder.lay_out()
    bundle.save(got, tmp_path / "again", torch.bfloat16)
    assert (tmp_path / "again/decoder.safetensors").read_bytes() == (halved / "decoder.safetensors").read_bytes()


def test_the_type_that_weights_are_read_in_is_that_which_draws() -> None:
    config = tiny_model.bundle().decoder.config
    for name in ("bfloat16", "float16", torch.bfloat16):
        assert read_in(name, None)(config) == getattr(torch, str(name).removeprefix("torch."))
    for name in ("float32", None, "int8", "nonsense"):
        assert read_in(name, "cpu")(config) == torch.float32
    auto = read_in("auto", "cpu")(config)
    assert auto == cm3.CM3Leon(tiny_model.bundle(), dtype="auto").decoder.embed.weight.dtype
    assert read_in("auto", "no such device")(config) == torch.float32


def test_a_wrong_type_is_still_refused(halved: Path) -> None:
    with pytest.raises(ConfigError, match="dtype='nonsense'"):
        cm3.load(halved, dtype="nonsense")
    with pytest.raises(ConfigError, match="device='no such device'"):
        cm3.load(halved, dtype="auto", device="no such device")
