#!/bin/sh
# vector-quantize-pytorch 1.32.0: with several heads that share one codebook, VectorQuantize.get_output_from_indices gives the heads an
# axis of their own, (batch, length, heads, codebook_dim), and not the output of forward, (batch, length, dim). With a codebook for each
# head it gives that output. Codes that were stored as indices come back in a shape that the decoder does not take, or broadcasts.
# Expected: what forward returned for the same indices, as with separate codebooks. Seen: (2, 32, 2, 8) for (2, 32, 16).
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q vector-quantize-pytorch==1.32.0 torch==2.13.0 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import torch
from vector_quantize_pytorch import VectorQuantize

torch.manual_seed(0)
given = torch.randn(2, 32, 16)
for separate in (True, False):
    quantizer = VectorQuantize(
        dim=16, codebook_dim=8, codebook_size=32, heads=2, separate_codebook_per_head=separate
    ).eval()
    out, indices, _ = quantizer(given)
    back = quantizer.get_output_from_indices(indices)
    print("separate" if separate else "shared", tuple(out.shape), tuple(back.shape))
    if separate:
        assert torch.equal(back, out)
    else:
        assert back.shape == (2, 32, 2, 8), "the heads are put together again now"
        assert torch.equal(back.flatten(2), out), "the values are right"
PY
