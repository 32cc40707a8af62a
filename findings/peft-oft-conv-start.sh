#!/bin/sh
# peft 0.21.2: an OFT adapter that was just made over a 3 x 3 convolution multiplies what the layer gives by nine. Its forward
# takes the picture apart into patches that overlap, turns each (by nothing, at first) and adds them up again, so an inner point
# counts nine times and one at a corner once. Merged, the same adapter gives the layer as it was. 1 x 1 convolutions are right.
# Expected: a new adapter changes nothing, and merging changes nothing. Seen: nine times as much before merging, so training
# starts from a broken model, and what was trained is another model once merged.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 peft==0.21.2 transformers==5.23.0
HF_HUB_OFFLINE=1 "$dir/venv/bin/python" - <<'PY'
import peft
import torch

torch.manual_seed(0)
pixels = torch.ones(1, 8, 12, 12)


def times(size):
    """How many times the bare layer's value comes from the layer with a new adapter, and from the merged one, at the centre."""
    layer = torch.nn.Sequential(torch.nn.Conv2d(8, 8, size, padding=size // 2, bias=False))
    bare = layer(pixels)[0, 0, 6, 6]
    adapted = peft.get_peft_model(layer, peft.OFTConfig(r=0, oft_block_size=4, target_modules=["0"])).eval()
    first = adapted(pixels)[0, 0, 6, 6] / bare
    return round(float(first), 3), round(float(adapted.merge_and_unload()(pixels)[0, 0, 6, 6] / bare), 3)


with torch.no_grad():
    one, three = times(1), times(3)
print("with the adapter and merged: 1 x 1", one, "times, 3 x 3", three, "times")
assert one == (1.0, 1.0)
assert three == (9.0, 1.0), "a new adapter over 3 x 3 changes nothing now"
PY
