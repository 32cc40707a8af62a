#!/bin/sh
# optimum-quanto 0.2.7: a model with calibrated activations that is saved and restored as its manual says (state_dict and
# quantization_map in, requantize out) computes something else. Calibration leaves the outputs of layers alone that no quantized layer
# reads (streamline, its default), and neither of the two saved things says so: the restored model rounds these outputs to 8 bits as
# well and hands a quantized tensor to what comes next. With Calibration(streamline=False) both give the same.
# Expected: the same outputs, of the same type. Seen: Tensor before and ActivationQBytesTensor after, apart by more than 0.005.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q optimum-quanto==0.2.7 torch==2.13.0 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import torch
from optimum.quanto import Calibration, freeze, qint8, quantization_map, quantize, requantize


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.LayerNorm(64), torch.nn.Linear(64, 16))


given = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
apart, kinds = {}, {}
for streamline in (True, False):
    first = model()
    quantize(first, weights=qint8, activations=qint8)
    with Calibration(streamline=streamline):
        first(given)
    freeze(first)
    again = model()
    requantize(again, first.state_dict(), quantization_map(first))
    a, b = first(given), again(given)
    kinds[streamline] = (type(a).__name__, type(b).__name__)
    apart[streamline] = (a - b).abs().max().item()
    print(f"streamline={streamline}: {kinds[streamline]}, apart by {apart[streamline]:.4f}")
assert apart[False] == 0
assert apart[True] > 0.005 and kinds[True] == ("Tensor", "ActivationQBytesTensor"), "a restored model gives the same now"
PY
