"""A second device for tests on a machine that has one: it computes on the processor, and refuses what a GPU refuses.

    with SecondDevice():
        module.to(DEVICE)
        module(x.to(DEVICE))        computes
        module(x)                   raises: tensors on two devices

A tensor of it holds one of the processor and reports `DEVICE`. Every operation passes through here. An operation may
mix the devices where torch's own rules let it: to copy, and to read a number of the processor (a tensor of no
dimension). A tensor made without a device is the processor's, so that the next forgotten `device=` fails a test.
Nothing of it can be read as an array before `.cpu()`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as tree
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("lazy", 0)
"""A kind of device that torch knows by name and has nothing behind."""
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Held(Tensor):
    """A tensor of the second device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Held:
        with torch.inference_mode(False):  # a view of a weight could not be of a tensor without a version
            made = Tensor._make_wrapper_subclass(
                cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
                device=DEVICE, requires_grad=False,
            )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Held({self.inner!r})"

    def tolist(self) -> Any:
        """As of any tensor: reading waits for the device."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While it stands, `DEVICE` can be named where tensors are made."""

    def __enter__(self) -> SecondDevice:
        # `torch.tensor` fills memory of the device by itself, unless it is told to go by way of the processor.
        self.was = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self.was)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on what is held; what comes of it is on the device that was named, else on that of the arguments."""
    flat = tree.tree_leaves((args, kwargs))
    held = any(isinstance(x, Held) for x in flat)
    others = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, Held) and x.dim() > 0]
    named = kwargs.get("device")
    if held and others and func not in COPIES:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {DEVICE} and cpu")
    there = held if named is None else torch.device(named).type == DEVICE.type
    if func is torch.ops.aten.copy_.default:
        there = isinstance(args[0], Held)
    if named is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    known = {id(x.inner): x for x in flat if isinstance(x, Held)}
    args, kwargs = tree.tree_map_only(Held, lambda x: x.inner, (args, kwargs))
    out = func(*args, **kwargs)
    if not there:
        return out
    return tree.tree_map_only(Tensor, lambda x: known[id(x)] if id(x) in known else Held(x), out)
