"""The memory that a cache may take: what is free, whoever limits it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from engine_reference import make_decoder

from cm3.engine import Codes, Engine, Request, budget
from cm3.engine.budget import block_bytes, free_bytes, share_of_free
from cm3.engine.cache import BLOCK
from cm3.vocab import Tokens, Vocab

CPU = torch.device("cpu")


def group(folder: Path, most: str, used: int, files: int) -> Path:
    """A group of processes as Linux shows it."""
    folder.mkdir(exist_ok=True)
    (folder / "memory.max").write_text(most + "\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {files}\n")
    return folder


def test_the_least_of_all_limits_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < share_of_free(CPU) < free_bytes(CPU)
    assert budget._left(group(tmp_path / "a", "1000", 700, 200)) == 500
    assert budget._left(group(tmp_path / "a", "1000", 1500, 0)) == 0
    assert budget._left(group(tmp_path / "a", "max", 700, 200)) is None
    assert budget._left(tmp_path / "none") is None
    for left, want in ((5, 5), (9 * 1024, 7 * 1024), (None, 7 * 1024)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=7 * 1024))
        monkeypatch.setattr(budget, "_left", lambda path, left=left: left)
        assert free_bytes(CPU) == want


@pytest.mark.parametrize("heads", [{}, {"kv_heads": 1}], ids=str)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.int8])
def test_a_block_has_the_bytes_that_are_counted(vocab: Vocab, heads: dict[str, int], dtype: torch.dtype | None) -> None:
    decoder = make_decoder(vocab, **heads)
    engine = Engine(decoder, vocab, cache_dtype="auto" if dtype is None else dtype)
    engine.run([Request((Tokens.of([vocab.eos] * (BLOCK - 1)),), (Codes.image(2),))])
    layers = decoder.config.layers
    assert engine.memory * (layers + 1) == block_bytes(decoder, dtype) * layers, "one layer more is counted"
