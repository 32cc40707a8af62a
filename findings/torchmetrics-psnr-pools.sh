#!/bin/sh
# torchmetrics 1.9.0: PeakSignalNoiseRatio over a batch or several is the PSNR of the error pooled over all pictures, while
# image tokenizers are reported by the mean over pictures. One picture that is reproduced well counts for nothing.
# Expected: the mean of the pictures' values. Seen: decibels below it; dim=(1, 2, 3) gives the mean.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 torchmetrics==1.9.0
"$dir/venv/bin/python" - <<'PY'
import torch
from torchmetrics.image import PeakSignalNoiseRatio

truth = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
offsets = torch.tensor([0.001, 0.1, 0.1, 0.1]).view(4, 1, 1, 1)
made = truth + offsets
each = [float(PeakSignalNoiseRatio(data_range=1.0)(m[None], t[None])) for m, t in zip(made, truth)]
pooled = float(PeakSignalNoiseRatio(data_range=1.0)(made, truth))
by_picture = float(PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3))(made, truth))
mean = sum(each) / 4
print(f"pictures {[round(e, 1) for e in each]}, mean {mean:.1f}, of the set {pooled:.1f}, with dim {by_picture:.1f}")
assert abs(mean - 30) < 0.1 and abs(by_picture - mean) < 0.1
assert pooled < mean - 5
PY
