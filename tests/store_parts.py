"""Tokenizers and folders of pictures, small enough to be prepared in a moment, and what a killed process runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image
import tiny_model
import torch
from safetensors.torch import save_file

from cm3.data import prepare as verb
from cm3.retrieval.pairs import Pairs, PairsConfig, save


def tokenizers(folder: Path) -> Path:
    """What an image tokenizer run writes, with a text tokenizer beside it."""
    folder.mkdir(parents=True)
    about = {"vqgan": dataclasses.asdict(tiny_model.SHAPE), "size": tiny_model.SIZE}
    (folder / "config.json").write_text(json.dumps(about))
    weights = {name: value.contiguous() for name, value in tiny_model.vqgan().state_dict().items()}
    save_file(weights, folder / "image_tokenizer.safetensors")
    shutil.copyfile(tiny_model.tokenizer_path(), folder / "tokenizer.json")
    return folder


def encoder(folder: Path, seed: int = 0) -> Path:
    """A small CLIP with random weights."""
    torch.manual_seed(seed)
    shape = PairsConfig(width=16, words=8, letters=4, letter_dim=4, d_model=16, layers=1, heads=2, channels=(8, 8, 16))
    save(Pairs(shape), folder, {"steps": 0})
    return folder


def photos(folder: Path, count: int, seed: int = 0) -> Path:
    """Captioned pictures, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        picture = PIL.Image.fromarray(pixels).resize((48, 40), PIL.Image.Resampling.NEAREST)
        picture.save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(f"a picture number {i} of {seed}")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder, hidden ones too, with a hash of its bytes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def run(sources: list[str], out: str, model: str, options: dict[str, Any]) -> None:
    """Prepare, in a process of its own."""
    torch.set_num_threads(1)
    verb.prepare(sources, out, model, **options)


def run_until(writes: int, after: bool, sources: list[str], out: str, model: str, options: dict[str, Any]) -> None:
    """The same, killed at the `writes`-th file to be put in its place: just before that, or just after."""
    replace, count = os.replace, 0

    def counted(*paths: Any) -> None:
        nonlocal count
        count += 1
        if count == writes and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths)
        if count == writes:
            os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch("os.replace", counted):
        run(sources, out, model, options)
