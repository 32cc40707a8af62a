"""Prompts that ask for all kinds of things, and processes that draw them and are killed on the way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from cm3.cli.main import main

LINES: tuple[dict[str, Any], ...] = (
    {"prompt": "a red circle", "id": "first"},
    {"prompt": "a blue star", "id": 7, "n": 3, "guidance": 3, "seed": 11},
    {"prompt": ["a ", {"gap": "text"}, " circle"], "max_tokens": 5},
    {"prompt": [{"image": "in.png"}], "max_tokens": 6},
    {"prompt": ["a red circle", {"image": "in.png", "box": [0, 0, 64, 64]}]},
    {"prompt": "a blue star", "n": 2, "contrast": "kmax", "k": 4, "alpha": 0.5},
    {"task": "edit", "request": {"image1": "in.png", "instruction": "paint it"}, "image_guidance": 1.5},
    {"task": "vqa2", "request": {"image": "in.png", "question": "why?"}, "max_tokens": 4},
)


def written(path: Path, lines: Any = LINES) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def command(*args: str | Path, env: dict[str, str] | None = None) -> None:
    """Give a command, in a process of its own; it ends with the exit code."""
    torch.set_num_threads(1)
    os.environ |= env or {}
    os._exit(main([str(a) for a in args]))


def command_until(place: str, count: int, after: bool, number: signal.Signals, *args: str | Path) -> None:
    """The same, sent a signal at the `count`-th call of a function: just before that, or just after."""
    module, name = place.rsplit(".", 1)
    of = {"os": os, "Path": Path}[module]
    real, calls = getattr(of, name), 0

    def counted(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and not after:
            os.kill(os.getpid(), number)
        result = real(*given, **more)
        if calls == count and after:
            os.kill(os.getpid(), number)
        return result

    with mock.patch.object(of, name, counted):
        command(*args)
