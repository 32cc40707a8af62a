#!/bin/sh
# schedulefree 1.4.1: AdamWScheduleFree counts steps by group of weights, where torch's AdamW counts them by weight. A weight whose
# first gradient comes late (one unfrozen after a while, the image side of a model whose first batches were text) gets no correction
# for its second moment, which begins at zero.
# Expected: a first step of about the learning rate, as for a weight that begins at once and as with torch's AdamW. Seen: after 3000
# steps without a gradient, the first step of the weight (its z, the point that the gradient moves) is 31 learning rates.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q schedulefree==1.4.1 torch==2.13.0 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import torch
from schedulefree import AdamWScheduleFree

rate = 1e-3


def first_step(make, idle):
    """How far, in learning rates, a weight goes in the first step with a gradient, after `idle` steps of another weight alone."""
    early, late = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = make([early, late], lr=rate, weight_decay=0.0)
    if isinstance(optimizer, AdamWScheduleFree):
        optimizer.train()
    for step in range(idle + 1):
        early.grad = torch.ones(1)
        late.grad = torch.ones(1) if step == idle else None
        optimizer.step()
    moved = optimizer.state[late].get("z", late)
    return abs(moved.item()) / rate


free = [round(first_step(AdamWScheduleFree, idle), 1) for idle in (0, 3000)]
adam = [round(first_step(torch.optim.AdamW, idle), 1) for idle in (0, 3000)]
print("first step in learning rates, at once and after 3000 steps: torch's AdamW", adam, "AdamWScheduleFree", free)
assert adam == [1.0, 1.0] and free[0] == 1.0
assert free[1] > 20, "a late weight's first step is corrected now"
PY
