#!/bin/sh
# torch 2.13.0: to lay out an nn.Embedding on the meta device imports torch's compiler and SymPy, over 800 modules and about
# a second; an nn.Linear, nn.Conv2d or nn.GroupNorm there imports nothing of them. What differs is the initialisation: a normal
# distribution on the meta device goes through Python decompositions, a uniform one does not. So a program that lays its model
# out on `meta` to load weights into it starts a second later, for one layer, and for numbers that are never drawn.
# Expected: the same for both, as neither has a value. Seen: torch._dynamo and sympy loaded by the first alone.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import sys

import torch


def loaded(make):
    before = set(sys.modules)
    with torch.device("meta"):
        make()
    return set(sys.modules) - before


torch.nn.Linear(2, 2, device="meta")  # what torch loads with its first tensor there is no part of it
linear = loaded(lambda: [torch.nn.Linear(2, 2), torch.nn.Conv2d(2, 2, 1), torch.nn.GroupNorm(1, 2)])
embedding = loaded(lambda: torch.nn.Embedding(2, 2))
print(torch.__version__, "linear layers:", len(linear), "modules; embedding:", len(embedding))
assert not any(name.partition(".")[0] == "sympy" or name.startswith("torch._dynamo") for name in linear)
assert "torch._dynamo" in embedding and "sympy" in embedding and len(embedding) > 400
PY
