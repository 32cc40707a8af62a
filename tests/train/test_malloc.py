"""Memory that was freed stays with the process where the C library can be told so."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from cm3.train.malloc import keep_freed
if sys.argv[1] == "kept" and not keep_freed():
    print("none")
    sys.exit()
import torch
torch.set_num_threads(1)
for _ in range(12):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_blocks_come_again_without_new_pages() -> None:
    told = {}
    for how in ("given", "kept"):
        run = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        told[how] = run.stdout.strip()
    if told["kept"] == "none":
        pytest.skip("the C library cannot be told")
    # Eight blocks of 64 MB (those of up to 32 MB it learns to keep by itself), page by page.
    assert int(told["kept"]) < int(told["given"]) / 4
