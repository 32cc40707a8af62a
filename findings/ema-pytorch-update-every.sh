#!/bin/sh
# ema-pytorch 0.8.3: PostHocEMA and KarrasEMA with update_every above 1, as in the manual's own example, take the decay of one step
# at each update, however many steps lie between updates. The average then reaches far further back than the asked sigma_rel, and so
# does every model put together from the checkpoints afterwards. With update_every=1 all is as in the paper (arXiv 2312.02696).
# Expected: about the same average from every tenth step, for less time. Seen: a weight that rises from 0 to 1 should average 0.820
# at a sigma_rel of 0.15, by the paper; update_every=1 gives 0.820 and update_every=10 gives 0.242.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q ema-pytorch==0.8.3 torch==2.13.0 numpy==2.2.6
"$dir/venv/bin/python" - "$dir" <<'PY'
import sys
import torch
from ema_pytorch import PostHocEMA
from ema_pytorch.post_hoc_ema import sigma_rel_to_gamma

steps, width = 5000, 0.15
gamma = sigma_rel_to_gamma(width)
paper = (gamma + 1) / (gamma + 2)  # the mean of t under a density that grows as t ** gamma from 0 to 1


def average(every):
    """The averaged weight of the model put together for `width`, where the weight is the part of the steps that is done."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    folder = f"{sys.argv[1]}/{every}"
    kept = PostHocEMA(
        model, sigma_rels=(0.05, 0.28), update_every=every, checkpoint_every_num_steps=500,
        checkpoint_folder=folder, checkpoint_dtype=torch.float32,
    )
    for step in range(steps):
        torch.nn.init.constant_(model.weight, (step + 1) / steps)
        kept.update()
    return kept.synthesize_ema_model(sigma_rel=width).ema_model.weight.item()


one, ten = average(1), average(10)
print(f"by the paper {paper:.3f}, update_every=1 {one:.3f}, update_every=10 {ten:.3f}")
assert abs(one - paper) < 0.01
assert ten < 0.3, "an average of every tenth step has the asked width now"
PY
