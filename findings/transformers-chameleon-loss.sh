#!/bin/sh
# transformers 5.23.0 (5.24.0 too): ChameleonForConditionalGeneration fills the logits of image ids with the smallest number
# before it takes the loss. A label that is one of them gives a loss of about 1e37, several give infinity, without a word;
# gradients stay finite, and those of the image ids' rows of the head are 0: training goes on and learns nothing of pictures.
# Expected: a loss of some nats, as for words, or an error. Seen: inf, and rows that never move.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0
HF_HUB_OFFLINE=1 "$dir/venv/bin/python" - <<'PY'
import torch
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

torch.manual_seed(0)
names = {"<image>": 40} | {f"IMGIMG{'ABCDEFGHIJ'[code]}Z": 4 + code for code in range(8)}
shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
image = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "num_embeddings": 8}
config = ChameleonConfig(vocab_size=48, num_key_value_heads=2, vocabulary_map=names, vq_config=image, **shape)
model = ChameleonForConditionalGeneration(config)


def loss(*ids):
    row = torch.tensor([ids])
    return model(input_ids=row, labels=row).loss


words, one = float(loss(0, 25, 26, 27, 2)), float(loss(0, 25, 4, 27, 2))
pictures = loss(0, 25, 4, 5, 6, 7, 8, 2)
pictures.backward()
moved = model.lm_head.weight.grad.abs()
print("words", round(words, 2), "one code", one, "five codes", float(pictures))
print("the largest gradient of a word's row", float(moved[20:].max()), "of a code's", float(moved[4:12].max()))
assert words < 20 and one > 1e36 and torch.isinf(pictures), "image ids have a loss now"
assert 0 < moved[20:].max() < 10 and moved[4:12].max() == 0, "rows of image ids learn now"
PY
