#!/bin/sh
# transformers 5.23.0: generate with guidance_scale, negative_prompt_ids and num_return_sequences=2 ends in a RuntimeError
# of torch.cat: the negative prompt is not repeated for the samples. Both given twice as a batch are served.
# Expected: two samples, as without guidance. Seen: "Sizes of tensors must match except in dimension 1".
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0
HF_HUB_OFFLINE=1 "$dir/venv/bin/python" - <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **shape)).eval()
ids, negative = torch.arange(3, 9)[None], torch.arange(9, 12)[None]


def draw(rows, n, guidance):
    prompts = ids.repeat(rows, 1)
    return model.generate(
        prompts, attention_mask=torch.ones_like(prompts), guidance_scale=guidance, num_return_sequences=n,
        negative_prompt_ids=negative.repeat(rows, 1) if guidance else None, do_sample=True, max_new_tokens=4, pad_token_id=0,
    )


assert draw(1, 2, None).shape[0] == 2 and draw(2, 1, 3.0).shape[0] == 2
try:
    draw(1, 2, 3.0)
except RuntimeError as error:
    print("two samples with guidance:", error)
else:
    raise SystemExit("two samples with guidance are drawn now")
PY
