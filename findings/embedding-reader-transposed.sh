#!/bin/sh
# embedding-reader 1.8.1: a .npy file of vectors whose array lies column by column in memory, as that of a transposed matrix does, is read
# as if it lay row by row. The header of the file says which it is (fortran_order), numpy.load heeds it, and the reader does not look.
# Shape and number are right, no error is raised, and every vector has numbers of other vectors: a search index built of them is noise.
# Expected: the vectors that numpy.load gives, or an error. Seen: of 40 vectors none is right; saved row by row all are.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q embedding-reader==1.8.1 numpy==2.2.6 "pandas<3" pyarrow==21.0.0
"$dir/venv/bin/python" - "$dir" <<'PY'
import os
import sys

import numpy
from embedding_reader import EmbeddingReader

made = numpy.random.default_rng(0).normal(size=(8, 40)).astype(numpy.float32)  # a vector in each column
right = {}
for name, vectors in (("rows", numpy.ascontiguousarray(made.T)), ("columns", made.T)):
    folder = f"{sys.argv[1]}/{name}"
    os.makedirs(folder)
    numpy.save(f"{folder}/vectors.npy", vectors)
    assert numpy.array_equal(numpy.load(f"{folder}/vectors.npy"), made.T)
    reader = EmbeddingReader(embeddings_folder=folder, file_format="npy")
    read = numpy.concatenate([some for some, _ in reader(batch_size=16, show_progress=False)])
    assert read.shape == made.T.shape
    right[name] = int((read == made.T).all(axis=1).sum())
    print(f"saved by {name}: {right[name]} of {len(read)} vectors are right")
assert right["rows"] == 40
assert right["columns"] == 0, "an array that lies by columns is read rightly now"
PY
