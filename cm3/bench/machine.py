"""The machine that measures: its clock, and how fast it streams weights from memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cm3.model.int8 import packed, product, quantise
from cm3.precision import flags
from cm3.weights import on_device

WIDTH = 4096
STREAMED = 512 << 20
"""Bytes of float32 weights that a pass streams: many times any processor's cache."""


def place(name: str) -> torch.device:
    """Return a device by its name, "auto" too. Raises `ConfigError` for one that is not there."""
    return next(on_device(torch.nn.Linear(1, 1), name).parameters()).device


def name_of(device: torch.device) -> str:
    """Return what a device is called: of a GPU its model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def about(device: torch.device) -> dict[str, Any]:
    """Return what every measurement is told with."""
    return {
        "device": name_of(device),
        "flags": flags(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "clock": "processor" if by_processor(device) else "wall",
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def by_processor(device: torch.device) -> bool:
    """Tell whether seconds are the processor's: of one thread, where other work on the machine disturbs them little."""
    return device.type == "cpu" and torch.get_num_threads() == 1


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that `work` takes, all that it started on the device included."""
    clock = time.process_time if by_processor(device) else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(clock() - began, 1e-9)


class Stream:
    """Matrices far larger than the caches in one number type, each multiplied by one vector: a decode step's floor."""

    def __init__(self, dtype: str, device: torch.device, streamed: int = STREAMED) -> None:
        self.device = device
        count = max(streamed // (4 * WIDTH * WIDTH), 1)
        size = 1 if dtype == "int8" else getattr(torch, dtype).itemsize
        self.bytes = count * WIDTH * WIDTH * size
        self._ways: list[Callable[[], object]] = []
        if dtype == "int8":
            plain = torch.arange(WIDTH * WIDTH, dtype=torch.int32).view(WIDTH, WIDTH) % 255 - 127
            if device.type == "cuda":
                from cm3.model.weight_only import weighed  # an earlier checkout has none

                x, scales = torch.linspace(-1, 1, WIDTH, device=device)[None], torch.ones(WIDTH, device=device)
                apart = [plain.to(device, torch.int8) for _ in range(count)]
                self._ways = [lambda: [weighed(x, codes, scales) for codes in apart]]
                return
            kept = [packed(plain.to(torch.int8), torch.ones(WIDTH)) for _ in range(count)]
            codes = quantise(torch.linspace(-1, 1, WIDTH)[None])
            self._ways = [lambda: [product(*codes, weight) for weight in kept]]
            return
        x = torch.linspace(-1, 1, WIDTH, device=device).to(getattr(torch, dtype))
        weights: list[Tensor] = [
            torch.full((WIDTH, WIDTH), 1 / WIDTH, dtype=x.dtype, device=device) for _ in range(count)
        ]
        self._ways = [lambda: [F.linear(x[None], w) for w in weights], lambda: [torch.mv(w, x) for w in weights]]

    @torch.inference_mode()
    def rate(self) -> float:
        """Return bytes a second of one pass, by the faster of torch's ways to multiply."""
        return self.bytes / min(seconds(way, self.device) for way in self._ways)
