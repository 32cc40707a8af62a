#!/bin/sh
# torch 2.13.0: torch.optim.AdamW(fused=True) on a processor reads a parameter and its gradient as if both lay in memory in one
# order. Where their strides differ (a transposed weight with a contiguous gradient, as backward gives it for a weight with
# gaps between its rows) it moves the wrong numbers, and says nothing.
# Expected: what fused=False gives, or an error. Seen: weights apart by six learning rates after three steps.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import torch


def moved(fused, padded):
    torch.manual_seed(0)
    start, factor = torch.randn(8, 5), torch.randn(8, 5)
    memory = torch.empty(5, 11)[:, :8].t() if padded else torch.empty(8, 5)
    weight = torch.nn.Parameter(memory.copy_(start))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
    for _ in range(3):
        optimizer.zero_grad()
        (weight * factor).sum().backward()
        optimizer.step()
    return weight.detach(), weight.stride(), weight.grad.stride()


right = moved(False, False)[0]
for fused in (False, True):
    found, strides, of_gradient = moved(fused, True)
    apart = float((found - right).abs().max())
    print(torch.__version__, "fused", fused, "strides", strides, of_gradient, "apart", round(apart, 3))
    assert apart > 0.1 if fused else apart < 1e-6
assert torch.allclose(moved(True, False)[0], right, atol=1e-5)
PY
