#!/bin/sh
# pycocoevalcap 1.2 (needs Java): its tokenizer is to take away punctuation, brackets among it ("-LRB-" is in its list), but
# asks Stanford's tokenizer for small letters, which makes them "-lrb-", so they are never found and count as words.
# Expected: "a dog (wet)" has three words, as "a dog, wet." has. Seen: five, two of them brackets.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q pycocoevalcap==1.2
"$dir/venv/bin/python" - <<'PY'
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer, PUNCTUATIONS

assert "-LRB-" in PUNCTUATIONS
given = {0: [{"caption": "a dog, wet."}], 1: [{"caption": "a dog (wet)"}]}
made = PTBTokenizer().tokenize(given)
print(made)
assert made[0] == ["a dog wet"], "commas and stops are taken away"
assert made[1] == ["a dog -lrb- wet -rrb-"], "brackets are taken away now"
PY
