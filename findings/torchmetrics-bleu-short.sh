#!/bin/sh
# torchmetrics 1.9.0: BLEUScore of a caption of fewer than four words is 0, though it equals its reference, word for word.
# Expected: 1, or an error that there are no 4-grams. Seen: 0, without a warning; 1 from four words on.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 torchmetrics==1.9.0
"$dir/venv/bin/python" -W error - <<'PY'
from torchmetrics.text import BLEUScore

short = float(BLEUScore(n_gram=4)(["a red cat"], [["a red cat"]]))
long = float(BLEUScore(n_gram=4)(["a red cat sleeping"], [["a red cat sleeping"]]))
print(f"three words, equal to the reference: {short}; four words: {long}")
assert short == 0.0 and long == 1.0
PY
