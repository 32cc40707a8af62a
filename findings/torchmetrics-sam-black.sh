#!/bin/sh
# torchmetrics 1.9.0: SpectralAngleMapper is NaN for a whole set of pictures as soon as one pixel of one of them is black: the angle of
# a vector of zeros is 0 / 0, and the mean is over all pixels. Nothing is raised or warned, and batches before and after are lost too.
# Expected: such pixels left out, or an error. Seen: nan for 8 pictures of 4,096 pixels of which one is black, a number without it.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torchmetrics==1.9.0 torch==2.13.0 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import math

import torch
from torchmetrics.image import SpectralAngleMapper

true = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) + 0.01
made = true + 0.1 * torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
angle = {}
for black in (False, True):
    if black:
        made[3, :, 10, 10] = 0
    metric = SpectralAngleMapper()
    for i in range(8):
        metric.update(made[i : i + 1], true[i : i + 1])
    angle[black] = metric.compute().item()
    print(f"{'one black pixel' if black else 'no black pixel'}: {angle[black]:.4f}")
assert 0 < angle[False] < 1
assert math.isnan(angle[True]), "a black pixel no longer spoils the set"
PY
