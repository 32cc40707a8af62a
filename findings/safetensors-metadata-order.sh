#!/bin/sh
# safetensors 0.8.0: the metadata of a file is written in an order that differs from process to process, so the same
# tensors with the same metadata are files of different bytes, with different checksums.
# Expected: the same bytes, as tensors are written in a fixed order. Seen: six entries, five processes, several files.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6
cat > "$dir/save.py" <<'PY'
import hashlib, sys
import numpy as np
from safetensors.numpy import save

tensors = {"a": np.zeros(2, np.float32), "b": np.ones(3, np.float32)}
metadata = {name: str(i) for i, name in enumerate(["author", "dataset", "licence", "model", "step", "version"])}
saved = save(tensors, metadata if sys.argv[1] == "metadata" else {"one": "entry"})
print(hashlib.sha256(saved).hexdigest())
PY
many=$(for _ in 1 2 3 4 5; do "$dir/venv/bin/python" "$dir/save.py" metadata; done | sort -u | wc -l)
one=$(for _ in 1 2 3 4 5; do "$dir/venv/bin/python" "$dir/save.py" one; done | sort -u | wc -l)
echo "five processes: $many different files with six entries of metadata, $one with one entry"
[ "$many" -gt 1 ] && [ "$one" -eq 1 ]
