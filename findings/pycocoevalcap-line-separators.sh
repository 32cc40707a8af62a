#!/bin/sh
# pycocoevalcap 1.2 (needs Java): a caption that holds a line separator other than "\n" (U+2028, as texts from the web have)
# becomes two lines for Stanford's tokenizer, and every caption behind it gets the words of the one before.
# Expected: each caption its own words, or an error. Seen: words move on by one, the last caption's are lost, no error.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q pycocoevalcap==1.2
"$dir/venv/bin/python" - <<'PY'
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

captions = ["a dog\u2028runs", "two cats", "a bus"]
made = PTBTokenizer().tokenize({number: [{"caption": caption}] for number, caption in enumerate(captions)})
print(made)
assert made[1] == ["runs"] and made[2] == ["two cats"], "captions keep their words now"
PY
