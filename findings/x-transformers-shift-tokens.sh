#!/bin/sh
# x-transformers 2.31.10: a decoder with shift_tokens writes something else with its cache of keys and values, which generate uses by
# default, than without. A layer takes half of each token from the one before it; with the cache it sees the last token alone, and
# takes nothing.
# Expected: the same text, up to rounding, as without shift_tokens. Seen: logits that are off by more than their spread, other words from the
# first one on, and no warning.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q x-transformers==2.31.10 torch==2.13.0 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import torch
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

off = {}
for shift in (0, 1):
    torch.manual_seed(1)
    layers = Decoder(dim=64, depth=3, heads=2, attn_dim_head=32, rotary_pos_emb=True, shift_tokens=shift)
    model = TransformerWrapper(num_tokens=50, max_seq_len=64, attn_layers=layers).eval()
    prompt = torch.randint(0, 50, (1, 12))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)  # fresh, the layers hardly matter
        words = AutoregressiveWrapper(model)
        slow, fast = (words.generate(prompt, 20, temperature=0.0, cache_kv=cached) for cached in (False, True))
        whole = torch.cat([prompt, slow], 1)
        logits = model(whole)
        _, cache = model(whole[:, :12], return_intermediates=True)
        last = model(whole[:, :13], cache=cache)[:, -1]
    off[shift] = ((last - logits[:, 12]).abs().max() / logits.std()).item()
    print("shift_tokens", shift, "same words:", round((slow == fast).float().mean().item(), 2), "logits off by", f"{off[shift]:.1e}")
assert off[0] < 1e-4, "the cache is right without shifted tokens"
assert off[1] > 0.3, "the cache knows the token before now"
PY
