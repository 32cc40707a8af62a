#!/bin/sh
# torch 2.13.0: what torch.distributed.checkpoint raises for a load that fails, CheckpointException, is a BaseException and no Exception.
# A tensor that was saved in another shape is enough. "except Exception" around a load, as a trainer has that falls back on an older
# checkpoint, does not catch it, and the process ends as by an interrupt from the keyboard.
# Expected: an Exception, as the ValueError that it wraps. Seen: it passes "except Exception" by.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
"$dir/venv/bin/python" - "$dir/checkpoint" 2>/dev/null <<'PY'
import sys

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException

dcp.save({"weight": torch.ones(3, 4)}, checkpoint_id=sys.argv[1])
taken_by = None
try:
    try:
        dcp.load({"weight": torch.zeros(4, 4)}, checkpoint_id=sys.argv[1])
    except Exception as error:
        taken_by = f"except Exception: {type(error).__name__}"
except BaseException as error:
    taken_by = f"nothing but except BaseException: {type(error).__name__}"
print("caught by", taken_by)
assert taken_by == "nothing but except BaseException: CheckpointException", "it is an Exception now"
assert not issubclass(CheckpointException, Exception)
PY
