"""Weights on their way in: one reader of the files that hold them, and one rule for every network.

A network whose weights hold a NaN draws black, says nothing or ranks at random, and no error tells why. So whatever
loads weights, of a tokenizer, a decoder, an encoder, a critic or a metric, has them looked through here first.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cm3.errors import CheckpointError, Cm3Error, ConfigError, did_you_mean
from cm3.files import said
from cm3.precision import FLOATS, for_drawing

_FLOATS = ("F16", "BF16", "F32", "F64")
_WHOLE = {torch.int64: ("I64",), torch.int8: ("I8",)}

M = TypeVar("M", bound=nn.Module)
Cut = Callable[[str, tuple[int, ...]], tuple[slice, ...]]
"""(name, whole shape) of a weight -> the part of it to read."""


def load_into(
    make: Callable[[], M], path: str | Path, where: str, cut: Cut | None = None, dtype: torch.dtype = torch.float32
) -> M:
    """Return a network in evaluation mode with the weights of a safetensors file, or a `cut` of each.

    Those that are no whole numbers come in `dtype`, one by one: of a file in bfloat16 no copy in float32 is made.

    Names, shapes and kinds are compared with the file's header before memory is taken. Raises `CheckpointError`, which
    begins with `where`, for a file that is none, for one of another network, and for weights that are no numbers.
    """
    try:
        file = safe_open(path, framework="pt")
    except Exception as error:  # safetensors raises its own kinds
        raise CheckpointError(f"{where}: not a readable safetensors file ({said(error)}); restore it") from error
    with file:
        with bare():
            laid_out = _made(make, where)
        wanted = laid_out.state_dict()
        there = set(file.keys())
        for name, value in wanted.items():
            if name not in there:
                raise CheckpointError(f"{where}: weight {name!r} is missing; restore the file")
            header = file.get_slice(name)
            shape, kind = tuple(header.get_shape()), header.get_dtype()
            if shape != tuple(value.shape):
                raise CheckpointError(
                    f"{where}: weight {name!r} has shape {shape}, config.json says {tuple(value.shape)}; restore both"
                )
            if kind not in (_FLOATS if value.is_floating_point() else _WHOLE[value.dtype]):
                raise CheckpointError(f"{where}: weight {name!r} is stored as {kind}; restore the file")
        if extra := sorted(there - set(wanted)):
            raise CheckpointError(f"{where}: weight {extra[0]!r} is not in the network that config.json describes")
        weights = {}
        for name, value in wanted.items():
            stored = file.get_tensor(name) if cut is None else file.get_slice(name)[cut(name, tuple(value.shape))]
            # A copy: the library's own may be the file, which may change.
            weights[name] = stored.to(dtype if value.is_floating_point() else value.dtype, copy=True)
    check_weights(weights, where)
    # Constants that are no weights have to be made in earnest. Networks without them are not drawn for nothing.
    constants = any(module._non_persistent_buffers_set for module in laid_out.modules())
    made = _made(make, where) if constants else laid_out
    if cut is not None:
        for name, value in weights.items():
            module, _, own = name.rpartition(".")
            setattr(made.get_submodule(module), own, nn.Parameter(value))
    made.load_state_dict(weights, assign=True)
    return made.eval()


# Torch 2.11 asks a mode for each step of a truncated normal distribution, and not for the whole.
_DRAWS = (Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.clamp_)


class _Undrawn(TorchFunctionMode):
    """Leaves out what only gives weights their first values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def bare() -> Iterator[None]:
    """Lay networks out on the meta device: names, shapes and kinds without memory.

    Nothing is drawn: for a normal distribution there, torch imports its compiler, which takes over a second.
    """
    with torch.device("meta"), _Undrawn():
        yield


def _made(make: Callable[[], M], where: str) -> M:
    try:
        return make()
    except Cm3Error as error:
        raise CheckpointError(f"{where}: {said(error)}") from error
    except (RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:  # torch's, of odd shapes
        raise CheckpointError(
            f"{where}: config.json does not describe a network ({said(error)}); restore it"
        ) from error


def parse_weights(data: bytes, what: str) -> dict[str, Tensor]:
    """Read the bytes of a safetensors file, of which any tensor is taken. `what` names whose weights they are.

    Raises `CheckpointError` for a file that is damaged, and as `check_weights`.
    """
    try:
        tensors = load(data)
    except Exception as error:  # safetensors raises its own kinds
        raise CheckpointError(f"{what}: the weights cannot be read ({said(error)}); restore them") from error
    check_weights(tensors, what)
    return tensors


def read_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """Read the tensors by name of a file of safetensors, or of torch.save, which is not run. `what` names whose it is.

    Raises `CheckpointError` for a file that is damaged or holds anything else, and as `check_weights`.
    """
    if path.suffix == ".safetensors":
        return parse_weights(path.read_bytes(), what)
    try:
        tensors = dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load has no one exception for a damaged file
        # Of other pickles torch says how to run what a stranger wrote: not an advice to pass on.
        reason = "no file of tensors alone" if isinstance(error, pickle.UnpicklingError) else said(error)
        raise CheckpointError(f"{what}: cannot be read ({reason}); restore them") from error
    if other := next((name for name, value in tensors.items() if not isinstance(value, Tensor)), None):
        raise CheckpointError(f"{what}: {other!r} is no tensor; give a file of weights by name")
    check_weights(tensors, what)
    return tensors


def check_weights(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise `CheckpointError`, naming `what` and the tensor, where a value is NaN or infinite."""
    if name := not_finite(tensors):
        raise CheckpointError(
            f"{what}: {name} has values that are not finite, of a training that diverged or a damaged file; restore "
            "it, or train it again"
        )


@torch.no_grad()
def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor with a value that is NaN or infinite; empty where there is none."""
    return next((n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())), "")


def check_dtype(name: str, known: Sequence[str]) -> None:
    """Raise `ConfigError` for the name of a number type that is not one of those that a network may have."""
    if name not in known:
        raise ConfigError(f"dtype={name!r:.60}: must be one of {', '.join(known)}.{did_you_mean(name, known)}")


def settled(device: str | torch.device | None) -> str | torch.device | None:
    """Return the device that "auto" is, a GPU where there is one, else the processor; any other as it is."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def on_device(module: M, device: str | torch.device | None, dtype: str | torch.dtype | None = None) -> M:
    """Return `module`, moved to a device and its floating-point weights to a dtype; None leaves them.

    The dtype, a name or torch's own, is that of a network that draws (cm3/precision.py). Raises `ConfigError` for a
    device that torch does not know or that is not there, and for another dtype than `FLOATS`.
    """
    device = settled(device)
    name = str(dtype).removeprefix("torch.")
    if dtype is not None:
        check_dtype(name, FLOATS)
    try:
        at = next(module.parameters()).device if device is None else torch.device(device)
        if device is not None and at.type == "meta":
            raise RuntimeError("it computes nothing")
        return module.to(at, None if dtype is None else for_drawing(name, at).dtype)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ImportError) as error:
        raise ConfigError(
            f"device={str(device)!r}: cannot be used ({said(error)}); give cpu, or cuda where there is one"
        ) from error
