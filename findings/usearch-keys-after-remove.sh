#!/bin/sh
# usearch 2.26.6: an index that makes its own keys (add with None) counts them from its length. After a vector is removed, the
# next key is one that is in use. With multi=True the new vector joins another item in silence, so a picture is found under the
# key of another; without it, add raises RuntimeError of duplicate keys.
# Expected: a key that no vector has. Seen: six vectors, key 0 removed, and the next vector gets key 5, which has one.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q usearch==2.26.6 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import numpy as np
from usearch.index import Index

vectors = np.eye(7, 8, dtype=np.float32)


def grown(multi):
    index = Index(ndim=8, metric="cos", multi=multi)
    assert list(index.add(None, vectors[:6])) == [0, 1, 2, 3, 4, 5]
    index.remove(0)
    return index, np.atleast_1d(index.add(None, vectors[6:]))


index, (key,) = grown(True)
(nearest,) = index.search(vectors[5], 1).keys
print("the new vector's key:", key, "the key of vector 5:", nearest, "vectors under it:", len(index.get(5)))
assert key == nearest == 5 and len(index.get(5)) == 2, "a new vector gets a key of its own now"
try:
    grown(False)
except RuntimeError as error:
    print("without multi: RuntimeError,", error)
else:
    raise SystemExit("changed: without multi there is no error")
PY
