#!/bin/sh
# pycocoevalcap 1.2 (the CIDEr and BLEU of most papers on captioning; needs Java): the words of a caption depend on the
# caption behind it in the file. PTBTokenizer joins all captions by line ends and gives them to Stanford's tokenizer at once;
# where one ends in a single letter with a full stop, the first word of the next decides whether the stop stays.
# Expected: a caption's words are its own. Seen: "the letter K." is "the letter k." before "a dog" and "the letter k" before
# "The dog", so the order of the items changes scores.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q pycocoevalcap==1.2
"$dir/venv/bin/python" - <<'PY'
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer


def words(*captions):
    given = {number: [{"caption": caption}] for number, caption in enumerate(captions)}
    return PTBTokenizer().tokenize(given)[0][0]


first, second = words("the letter K.", "a dog"), words("the letter K.", "The dog")
print(repr(first), "and", repr(second))
assert first != second, "a caption's words are its own now"
PY
