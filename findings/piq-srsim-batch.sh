#!/bin/sh
# piq 0.8.0: srsim scales the saliency of a picture by the least and the largest value of its whole batch. So the score of a pair depends on
# the pairs beside it, and the mean over a data set on how it was cut into batches, also with reduction="none". Its vsi and gmsd, of the
# same kind, give a pair one score.
# Expected: the same score for a pair alone and beside another. Seen: 0.81 alone and 0.88 beside a picture of a star in the dark.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q piq==0.8.0 torch==2.13.0 torchvision==0.28.0 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import sys
import types

# The compiled operators of torchvision have no part in this: without this module any build of it can be imported.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
import piq
import torch
from torch.nn.functional import interpolate

torch.manual_seed(0)
first = interpolate(torch.rand(2, 3, 16, 16), size=(256, 256), mode="bicubic").clamp(0, 1)
first[1] = 0
first[1, :, 100:104, 100:104] = 1  # the second picture is a star in the dark
second = (first + 0.1 * torch.randn(first.shape)).clamp(0, 1)
for name in "gmsd", "vsi", "srsim":
    score = getattr(piq, name)
    alone, beside = score(first[:1], second[:1], reduction="none")[0], score(first, second, reduction="none")[0]
    print(f"{name} of one pair: {alone:.3f} alone, {beside:.3f} beside another")
    if name == "srsim":
        assert abs(alone - beside) > 0.05, "a pair has one score now"
    else:
        assert abs(alone - beside) < 1e-4
PY
