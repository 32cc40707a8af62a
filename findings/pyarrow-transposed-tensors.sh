#!/bin/sh
# pyarrow 26.0.1: from_numpy_ndarray takes a transposed array as it lies and notes the order of its axes. Read as a whole, pictures
# whose height and width were swapped come back right; read one by one (to_numpy of a row), they have the right shape and the
# pixels in wrong places. With channels last turned to channels first (a rotation of the axes) both readings go wrong: the
# whole raises an error, and one picture has another shape.
# Expected: one row is the same picture as in the whole array, or the error. Seen: other pixels, without a word.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q pyarrow==26.0.1 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import numpy as np
import pyarrow as pa

pictures = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)

swapped = pictures.transpose(0, 2, 1, 3)
column = pa.FixedShapeTensorArray.from_numpy_ndarray(swapped)
whole, row = column.to_numpy_ndarray(), column[1].to_numpy()
same = int((row == swapped[1]).sum())
print("height and width swapped: the whole is right:", np.array_equal(whole, swapped), "one picture has the shape", row.shape)
print("and", same, "of", row.size, "values in their places")
assert np.array_equal(whole, swapped) and row.shape == swapped[1].shape == (6, 4, 3)
assert same < row.size, "a row of swapped pictures is right now"

plain = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(swapped))
assert np.array_equal(plain[1].to_numpy(), swapped[1]), "a copy in order is read right"

first = pictures.transpose(0, 3, 1, 2)
column = pa.FixedShapeTensorArray.from_numpy_ndarray(first)
print("channels first: one picture should have the shape", first[1].shape, "and has", column[1].to_numpy().shape)
assert column[1].to_numpy().shape != first[1].shape, "a row of pictures with channels first is right now"
try:
    column.to_numpy_ndarray()
except pa.ArrowInvalid as error:
    print("the whole: ArrowInvalid,", error)
else:
    raise SystemExit("changed: the whole with channels first is read")
PY
