#!/bin/sh
# kornia 0.9.0: mean_iou gives a class that neither the prediction nor the truth has an overlap of 1. Most pictures hold few of a
# dataset's classes, so the mean over classes says little but how many are absent: a map that is wrong everywhere does well.
# Expected: absent classes left out or NaN, so that the mean of a wrong map is 0 (as scikit-learn's Jaccard score over the labels
# that occur). Seen: of 20 classes, 2 of them in the picture and all pixels wrong: 0 for these two, 1 for 18, a mean of 0.9.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q kornia==0.9.0 torch==2.13.0 numpy==2.2.6 scikit-learn==1.7.2
"$dir/venv/bin/python" - <<'PY'
import torch
from kornia.metrics import mean_iou
from sklearn.metrics import jaccard_score

truth = torch.tensor([[4, 4, 4, 7, 7, 7]])
wrong = torch.tensor([[7, 7, 7, 4, 4, 4]])
other = jaccard_score(truth[0], wrong[0], average="macro")
each = mean_iou(wrong, truth, 20)
print("scikit-learn:", other, "kornia:", [round(v, 2) for v in each[0].tolist()], "mean", round(each.mean().item(), 2))
assert other == 0
assert each[0, [4, 7]].max() < 1e-3, "the two classes are wrong everywhere"
absent = [i for i in range(20) if i not in (4, 7)]
assert each[0, absent].min() > 0.99 and each.mean() > 0.89, "absent classes count otherwise now"
PY
