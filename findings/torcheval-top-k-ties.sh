#!/bin/sh
# torcheval 0.0.7: hit_rate, reciprocal_rank and multiclass_accuracy with k over 1 count only the scores that are larger than the target's. So
# of equal scores every one is the first: a model that gives 100 classes one score has hit rate 1 at k=1, mean reciprocal rank 1 and top-3
# accuracy 1, and the same pictures twice in an index raise its figures. multiclass_accuracy with k=1 takes one class and gives 0.01.
# Expected: the share of targets among k classes, as torch.topk finds. Seen: all of them.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torcheval==0.0.7 torch==2.13.0 numpy==2.2.6 typing_extensions==4.15.0
"$dir/venv/bin/python" - <<'PY'
import torch
from torcheval.metrics.functional import hit_rate, multiclass_accuracy, reciprocal_rank

scores, targets = torch.full((100, 100), 0.1), torch.arange(100)
found = (scores.topk(3).indices == targets[:, None]).any(1).float().mean()
one, three = multiclass_accuracy(scores, targets), multiclass_accuracy(scores, targets, k=3)
hits, ranks = hit_rate(scores, targets, k=1).mean(), reciprocal_rank(scores, targets).mean()
print(f"of 100 equal scores: accuracy {one:.2f}, of the first three {three:.2f} (topk finds {found:.2f})")
print(f"hit rate at 1 {hits:.2f}, mean reciprocal rank {ranks:.2f}")
assert abs(one - 0.01) < 1e-6 and found < 0.1
assert three == hits == ranks == 1, "equal scores are counted otherwise now"
PY
