#!/bin/sh
# torch 2.13.0 on a processor with bfloat16 (avx512_bf16, amx_bf16): each new shape of a product in bfloat16 leaves about half a
# megabyte that is never given back, though every tensor is gone. Texts of changing lengths so make a run larger with every step,
# and slower, as each shape costs its making once.
# Expected: memory as in float32, 20 to 35 MB after 1,200 lengths. Seen: over 500 MB in bfloat16; ONEDNN_PRIMITIVE_CACHE_CAPACITY=64
# leaves over half of that. Lengths rounded up to a few values cost a few megabytes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
cat > "$dir/grow.py" <<'PY'
import random
import sys

import torch

torch.set_num_threads(1)
if not {"avx512_bf16", "amx_bf16"} & {name for name, has in torch.cpu.get_capabilities().items() if has}:
    raise SystemExit("this processor has no bfloat16; nothing to see here")


def resident():
    with open("/proc/self/statm") as page:
        return int(page.read().split()[1]) * 4096 / 1e6


kind, step = getattr(torch, sys.argv[1]), int(sys.argv[2])
random.seed(0)
before = resident()
for _ in range(1200):
    length = -(-random.randint(8, 600) // step) * step
    x = torch.randn(4, length, 64, dtype=kind)
    (x @ x.transpose(1, 2)) @ x
grown = resident() - before
print(f"{sys.argv[1]}, lengths in steps of {step}: {grown:.0f} MB more")
least, most = (float(word) for word in sys.argv[3:])
assert least <= grown <= most, f"changed: {least} to {most} MB was seen"
PY
"$dir/venv/bin/python" "$dir/grow.py" float32 1 0 100
"$dir/venv/bin/python" "$dir/grow.py" bfloat16 1 400 2000
"$dir/venv/bin/python" "$dir/grow.py" bfloat16 64 0 100
