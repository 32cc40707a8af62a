#!/bin/sh
# torchmetrics 1.9.0: UniversalImageQualityIndex takes a window of one plain colour for a failure, also where both pictures are equal
# there: it counts 0 where SSIM counts 1. A picture of things on a plain ground, compared with itself, so scores by how little ground it
# has, and a model that draws such pictures never reaches 1. SpatialCorrelationCoefficient does the same.
# Expected: 1 for a picture compared with itself. Seen: 0.39 (UQI) and 0.27 (SCC) where a noisy square stands on grey, SSIM 1.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torchmetrics==1.9.0 torch==2.13.0 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import torch
from torchmetrics.image import SpatialCorrelationCoefficient, StructuralSimilarityIndexMeasure, UniversalImageQualityIndex

picture = torch.full((1, 3, 64, 64), 0.5)
picture[:, :, 20:44, 20:44] = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
busy = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
score = {}
for metric in (StructuralSimilarityIndexMeasure(data_range=1.0), UniversalImageQualityIndex(), SpatialCorrelationCoefficient()):
    name = type(metric).__name__
    score[name] = []
    for given in (picture, busy):
        metric.reset()
        metric.update(given, given)
        score[name].append(metric.compute().item())
    print(f"{name}: on a plain ground {score[name][0]:.3f}, without one {score[name][1]:.3f}")
assert all(abs(one[1] - 1) < 1e-3 for one in score.values())
assert abs(score["StructuralSimilarityIndexMeasure"][0] - 1) < 1e-3
assert score["UniversalImageQualityIndex"][0] < 0.9 and score["SpatialCorrelationCoefficient"][0] < 0.9, "a plain ground counts as equal now"
PY
