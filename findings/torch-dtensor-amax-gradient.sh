#!/bin/sh
# torch 2.13.0: the gradient of `amax()`, and of a vector_norm of infinity, of a sharded tensor (DTensor) is nan and inf where the largest value
# is not among the first process's. `max()` of the same tensor is right, as is `amax(0)`, and all values are.
# Expected: 1 at the largest value and 0 elsewhere, wherever it is. Seen: that if the first of 2 processes has it, else inf in its place and
# nan everywhere else.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
cat > "$dir/largest.py" <<'PY'
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
reductions = {
    "amax()": lambda x: x.amax(),
    "vector_norm(inf)": lambda x: torch.linalg.vector_norm(x, float("inf")),
    "max()": lambda x: x.max(),
    "amax(0)": lambda x: x.amax(0).sum(),
}
for row in (0, 3):  # the first process's, the second's
    values = torch.tensor([[1.0], [2.0], [0.5], [3.0]])
    values[row] = 5.0
    for name, reduction in reductions.items():
        whole = values.clone().requires_grad_()
        sharded = distribute_tensor(values, mesh, [Shard(0)]).requires_grad_()
        one, other = reduction(whole), reduction(sharded)
        one.backward()
        other.backward()
        gradient = sharded.grad.full_tensor()
        if dist.get_rank() == 0:
            print(f"the largest in row {row}: {name} = {one.item()}, gradient {gradient.flatten().tolist()}")
        assert one.item() == other.full_tensor().item(), f"{name}: the value differs now"
        if row == 3 and name in ("amax()", "vector_norm(inf)"):
            assert not gradient.isfinite().any(), f"{name}: the gradient is finite now"
        else:
            assert torch.equal(gradient, whole.grad), f"{name}: the gradient is wrong now"
dist.barrier()
dist.destroy_process_group()
PY
OMP_NUM_THREADS=1 "$dir/venv/bin/torchrun" --nproc-per-node 2 "$dir/largest.py"
