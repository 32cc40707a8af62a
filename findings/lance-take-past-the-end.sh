#!/bin/sh
# pylance 14.0.2: take() of a row number that the dataset does not have gives fewer rows, and no error. Row numbers that a
# sampler made for a longer version of the same dataset so lose samples in silence, and what is zipped with them shifts.
# Expected: an error that names the row, as pyarrow's own take raises (IndexError). Seen: take([2, 10, 3]) of ten rows gives 2 and 3.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q pylance==14.0.2 pyarrow==21.0.0
"$dir/venv/bin/python" - "$dir/rows.lance" <<'PY'
import sys

import lance
import pyarrow as pa

table = pa.table({"number": range(10)})
try:
    table.take([2, 10, 3])
except IndexError as error:
    print("pyarrow: IndexError,", error)
else:
    raise SystemExit("changed: pyarrow takes a row that is not there")

dataset = lance.write_dataset(table, sys.argv[1])
taken = dataset.take([2, 10, 3]).column("number").to_pylist()
print("lance: asked for rows 2, 10, 3 of", dataset.count_rows(), "and got", taken)
assert taken == [2, 3], "a row that is not there is told now"
PY
