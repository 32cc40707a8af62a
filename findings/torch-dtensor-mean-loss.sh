#!/bin/sh
# torch 2.13.0: mse_loss, smooth_l1_loss and binary_cross_entropy_with_logits of sharded tensors (DTensor) whose rows do not divide by
# the processes take the mean of each process's mean, as if all had as many rows. `x.mean()` and cross_entropy of the same tensors are
# weighted and right. So a last batch that is short trains on another loss than one process has, and nothing is said.
# Expected: the loss of the whole tensors, as for other reductions. Seen: of 5 rows on 2 processes, where the first process's differ by 1
# and the others' by 3, a mean squared error of 5.0 in place of 4.2; 6 rows are right.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
cat > "$dir/losses.py" <<'PY'
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
apart = {}
for rows in (6, 5):
    made, true = torch.zeros(rows, 4), torch.ones(rows, 4)
    true[3:] = 3  # what the second process has
    a, b = (distribute_tensor(one, mesh, [Shard(0)]) for one in (made, true))
    pairs = {
        "mean": (lambda x, y: ((x - y) ** 2).mean()),
        "mse_loss": F.mse_loss,
        "smooth_l1_loss": F.smooth_l1_loss,
        "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
    }
    for name, loss in pairs.items():
        whole, sharded = loss(made, true).item(), loss(a, b).full_tensor().item()
        if name == "binary_cross_entropy_with_logits":
            whole, sharded = loss(true, made).item(), loss(b, a).full_tensor().item()
        apart[rows, name] = abs(whole - sharded)
        if dist.get_rank() == 0:
            print(f"{rows} rows, {name}: whole {whole:.4f}, sharded {sharded:.4f}")
for (rows, name), difference in apart.items():
    wrong = rows == 5 and name != "mean"
    assert (difference > 0.05) == wrong, f"{rows} rows, {name}: {'right' if wrong else 'wrong'} now"
dist.barrier()
dist.destroy_process_group()
PY
OMP_NUM_THREADS=1 "$dir/venv/bin/torchrun" --nproc-per-node 2 "$dir/losses.py"
