#!/bin/sh
# torch 2.13.0: mse_loss, smooth_l1_loss, huber_loss and soft_margin_loss of sharded tensors (DTensor) have the right value and a gradient
# that is as many times too large as there are processes. Their backward divides by the values that one process has. l1_loss,
# binary_cross_entropy_with_logits, and the same mean written out, are right; so is reduction="sum".
# Expected: the gradient of the whole tensors. Seen: on 2 processes, 6 rows shared evenly, twice that for the four.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
cat > "$dir/gradients.py" <<'PY'
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
made, true = torch.randn(6, 4), torch.randn(6, 4).sign()
losses = {
    "mse_loss": (F.mse_loss, 2.0),
    "smooth_l1_loss": (F.smooth_l1_loss, 2.0),
    "huber_loss": (F.huber_loss, 2.0),
    "soft_margin_loss": (F.soft_margin_loss, 2.0),
    "mse_loss, summed": (lambda x, y: F.mse_loss(x, y, reduction="sum"), 1.0),
    "the mean of squares": (lambda x, y: ((x - y) ** 2).mean(), 1.0),
    "l1_loss": (F.l1_loss, 1.0),
    "binary_cross_entropy_with_logits": (lambda x, y: F.binary_cross_entropy_with_logits(x, y * 0.5 + 0.5), 1.0),
}
for name, (loss, seen) in losses.items():
    whole = made.clone().requires_grad_()
    sharded = distribute_tensor(made, mesh, [Shard(0)]).requires_grad_()
    one, other = loss(whole, true), loss(sharded, distribute_tensor(true, mesh, [Shard(0)]))
    one.backward()
    other.backward()
    ratio = sharded.grad.full_tensor().norm() / whole.grad.norm()
    apart = abs(other.full_tensor().item() - one.item())
    if dist.get_rank() == 0:
        print(f"{name}: values {apart:.1e} apart, gradient {ratio:.3f} of the true one")
    assert apart < 1e-5, f"{name}: the value differs now"
    assert abs(ratio - seen) < 1e-3, f"{name}: the gradient is {ratio:.3f} of the true one now"
dist.barrier()
dist.destroy_process_group()
PY
OMP_NUM_THREADS=1 "$dir/venv/bin/torchrun" --nproc-per-node 2 "$dir/gradients.py"
