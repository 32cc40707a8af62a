#!/bin/sh
# opencv-python-headless 5.0.0.93 against 4.12.0.88: calcHist gives shape (16,) in version 5 and (16, 1) in version 4, and
# findNonZero (n, 2) in place of (n, 1, 2). Code that reads hist[i][0], or joins features by columns, breaks or broadcasts.
# Expected: the shapes of fifteen years of examples. Seen: a dimension less.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q numpy==2.2.6
for version in 4.12.0.88 5.0.0.93; do
  "$dir/venv/bin/pip" install -q --no-deps --target "$dir/$version" "opencv-python-headless==$version"
  PYTHONPATH="$dir/$version" "$dir/venv/bin/python" - <<'PY'
import cv2
import numpy as np

new = cv2.__version__.startswith("5")
picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
histogram = cv2.calcHist([picture], [0], None, [16], [0, 256])
places = cv2.findNonZero(picture)
print(cv2.__version__, "histogram", histogram.shape, "places", places.shape)
assert histogram.shape == ((16,) if new else (16, 1))
assert places.shape == ((63, 2) if new else (63, 1, 2))
PY
done
