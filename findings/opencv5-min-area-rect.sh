#!/bin/sh
# opencv-python-headless 5.0.0.93 against 4.12.0.88: minAreaRect gives the same rectangle by another convention: angles in
# [-90, 0) in place of (0, 90], and for a tilted one width and height exchanged. Labels of rotated boxes change silently.
# Expected: one convention, or an error. Seen: 10 x 4 upright is (4, 10), -90 in version 5 and (4, 10), 90 in version 4.
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
upright = cv2.minAreaRect(np.array([[0, 0], [10, 0], [10, 4], [0, 4]], np.float32))
tilted = cv2.minAreaRect(np.array([[2, 0], [10, 4], [8, 8], [0, 4]], np.float32))
print(cv2.__version__, "upright", upright, "tilted", tilted)
assert round(upright[2]) == (-90 if new else 90)
assert round(tilted[2]) == (-63 if new else 27)
assert (tilted[1][0] < tilted[1][1]) == new
PY
done
