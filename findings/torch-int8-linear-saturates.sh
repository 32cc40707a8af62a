#!/bin/sh
# torch 2.13.0: onednn.qlinear_pointwise, the operator that inductor lowers int8 linear layers to, gives wrong sums in silence on
# a processor with AVX2 and without VNNI. It multiplies unsigned activations by signed weights and adds two products in
# 16 bits, which saturate (255 * 127 * 2 > 32,767). Codes of activations over 128 or so are enough; torch's own observers
# keep to 7 bits there (reduce_range), but the operator itself says nothing and takes 8.
# Expected: the sums of int32 arithmetic. Seen: 65,534 of 129,540 for four products of 255 * 127 on such a processor, forced here
# by ONEDNN_MAX_CPU_ISA=AVX2; right sums with codes up to 127.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
ONEDNN_MAX_CPU_ISA=AVX2 "$dir/venv/bin/python" - <<'PY'
import torch

weight = torch.ops.onednn.qlinear_prepack(torch.full((8, 4), 127, dtype=torch.int8), None)


def multiply(code):
    x = torch.full((1, 4), code, dtype=torch.uint8)
    ones, zeros = torch.ones(8), torch.zeros(8, dtype=torch.int64)
    out = torch.ops.onednn.qlinear_pointwise(x, 1.0, 0, weight, ones, zeros, None, 1.0, 0, torch.float32, "none", [], "")
    return float(out[0, 0]), 4 * code * 127


for code in (127, 255):
    print(torch.__version__, "code", code, "seen", *multiply(code)[:1], "right", multiply(code)[1])
assert multiply(127)[0] == multiply(127)[1]
assert multiply(255)[0] < multiply(255)[1]
PY
