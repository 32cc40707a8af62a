#!/bin/sh
# transformers 5.23.0 (5.24.0 too): JanusVQVAE.encode compares vectors as they are, while its decode takes the code's vector
# at unit length, as Janus's published code does on both sides. So a code's own vector, as decode makes it, is given another
# code, and a picture gets other codes than by the published rule (the nearest of vectors of unit length).
# Expected: every code back from its own vector. Seen: a quarter of 64 codes come back as others.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0
HF_HUB_OFFLINE=1 "$dir/venv/bin/python" - <<'PY'
import torch
from torch.nn.functional import normalize
from transformers import JanusVQVAE, JanusVQVAEConfig

torch.manual_seed(0)
shape = {"base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1, "latent_channels": 32}
model = JanusVQVAE(JanusVQVAEConfig(num_embeddings=64, embed_dim=8, num_patches=8, **shape)).eval()
with torch.no_grad():
    codes = torch.arange(64)
    of_decode = model.quantize.get_codebook_entry(codes[None])
    assert torch.allclose(of_decode.norm(dim=1), torch.ones(1, 8, 8), atol=1e-5), "decode's are of unit length"
    back = model.quantize(of_decode)[2]

    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    found = model.encode(pixels).image_tokens
    vectors = model.quant_conv(model.encoder(pixels)).permute(0, 2, 3, 1).reshape(-1, 8)
    rule = (normalize(vectors, dim=1) @ normalize(model.quantize.embedding.weight, dim=1).T).argmax(1)
print(int((back != codes).sum()), "of 64 codes come back as others;", int((found != rule).sum()), "of a picture's 64 differ")
assert (back != codes).sum() > 4 and (found != rule).sum() > 4, "encode takes vectors of unit length now"
PY
