"""One policy of number types: which one a network computes in, by a setting, a device and what it is for.

    dtype       drawing                                     training (weights and sums are float32 always)
    float32     float32                                     float32
    bfloat16    bfloat16                                    bfloat16 in the passes
    float16     float16                                     refused
    int8        weights in int8, on a processor products    refused
                too, all else float32 (model/int8.py)
    auto        bfloat16 on a GPU that computes in it, or   bfloat16 where the device computes in it, a processor too,
                where a processor draws faster in it,       else float32
                else float32

A processor that has bfloat16 multiplies matrices many times as fast in it; one that has not emulates it, several times
slower than float32. Which it is, a probe tells. Drawing on a processor multiplies by a row or two at a time: one that
computes in bfloat16 gains by it where the weights come from memory, and loses where they are few. So a second probe
measures products of the model's own width and size. Int8 changes what is drawn, so it is taken only where it is asked
for (docs/speed.md).
"""

from __future__ import annotations

import functools
import platform
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
"""Number types of a language model that draws, by name."""
FLOATS = DTYPES[:4]
"""Those of any network that computes."""
TRAINED = DTYPES[:3]
"""Those of a network that is trained."""
ENOUGH = 1.3
"""How many times as fast as float32 bfloat16 must be to be taken for native: 6.7 with AMX, 2.0 to 2.3 with AVX-512's
instructions alone, far under 1 emulated."""
DRAWN = 1.25
"""How many times as fast the products of a step must be in bfloat16 for drawing in it: a step has other operators too,
and the choice should not hang on chance."""
STREAMED = 2**26
"""Bytes in float32 that the second probe reads at most: over a processor's cache, as a larger model is."""
FLAGS = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
ROWS, INSIDE, OUTSIDE = 512, 256, 1024
TRIES, PATIENCE = 8, 0.03
"""Tries of the probe in each type, and the seconds after which it tries no more, but for the second."""


def flags() -> list[str]:
    """Return the instruction sets of the processor that sums may depend on."""
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return [name for name in FLAGS if found.get(name)]
    return [torch.backends.cpu.get_cpu_capability().lower()]  # torch before 2.13


class Choice(NamedTuple):
    """The number type of a run, and the reason in words."""

    name: str
    why: str

    @property
    def dtype(self) -> torch.dtype:
        """Return torch's own."""
        found: torch.dtype = getattr(torch, self.name)
        return found


def for_training(name: str, device: torch.device) -> Choice:
    """Return the type of the passes of a run whose setting is `name`, one of `TRAINED`."""
    if name != "auto":
        return Choice(name, "as set")
    native, why = has_bfloat16(device)
    return Choice("bfloat16" if native else "float32", why)


def for_drawing(name: str, device: torch.device, shape: tuple[int, int] | None = None) -> Choice:
    """Return the type of a network that draws, where the setting is `name`, one of `FLOATS`.

    `shape` is the width and the number of weights of one that reads a token or two a step; None is another's.
    """
    if name != "auto":
        return Choice(name, "as set")
    if device.type == "cuda":
        return for_training(name, device)
    if device.type != "cpu" or shape is None:
        return Choice("float32", "drawing gains nothing from another type here")
    native, why = has_bfloat16(device)
    if not native:
        return Choice("float32", why)
    times = streamed(*shape)
    why = f"steps of {shape[1] / 1e6:.3g}M weights of width {shape[0]} are {times:.2g} times as fast in bfloat16"
    return Choice("bfloat16" if times > DRAWN else "float32", why)


def has_bfloat16(device: torch.device) -> tuple[bool, str]:
    """Tell whether a device computes in bfloat16 itself, and how that is known."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return native, f"the GPU {'computes' if native else 'does not compute'} in bfloat16"
    if device.type != "cpu":
        return False, f"not looked into on {device.type}"
    if emulates():
        return False, "this processor has no instructions for bfloat16"
    times = probed()
    return times > ENOUGH, f"bfloat16 is {times:.2g} times as fast as float32 on this processor"


def emulates() -> bool:
    """Tell whether this processor is known to have no instructions for bfloat16. Where torch does not say, it is not
    known, and left to the probe."""
    known = platform.machine() in ("x86_64", "AMD64") and hasattr(torch.cpu, "get_capabilities")
    return known and not {"avx512_bf16", "amx_bf16"} & set(flags())


@functools.cache
def probed() -> float:
    """Return how many times as fast a linear layer is in bfloat16 as in float32, on this processor, now.

    Best of `TRIES` of each, in turns, in processor time, so that other work counts little. It draws no random number.
    """
    return _times(ROWS, [torch.ones(OUTSIDE, INSIDE)])


@functools.cache
def streamed(width: int, count: int) -> float:
    """Return the same of two rows times as many matrices (4 width, width) as have `count` weights, or `STREAMED` bytes.

    In float32 they are laid out as for drawing.
    """
    number = max(1, min(count, STREAMED // 4) // (4 * width * width))
    return _times(2, [torch.ones(width, 4 * width).t() for _ in range(number)])


def _times(rows: int, weights: list[Tensor]) -> float:
    x = torch.ones(rows, weights[0].shape[1])
    # What is not float32 lies plain: each output's weights one after another.
    made = [(x, weights), (x.bfloat16(), [weight.bfloat16().contiguous() for weight in weights])]
    best, began = [float("inf")] * 2, time.thread_time()
    with torch.no_grad():
        for turn in range(TRIES):
            if turn > 1 and time.thread_time() - began > PATIENCE:  # the first of all is to warm up
                break
            for which, (rows_of, every) in enumerate(made):
                best[which] = min(best[which], sum(_seconds(rows_of, weight) for weight in every))
    return best[0] / best[1]


def _seconds(x: Tensor, weight: Tensor) -> float:
    began = time.thread_time()
    F.linear(x, weight)
    return max(time.thread_time() - began, 1e-9)
