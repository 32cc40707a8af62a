#!/bin/sh
# OpenCV: INTER_NEAREST_EXACT takes the same pixels as Pillow's nearest, so its manual says of both versions. OpenCV 5 does for each of
# these sizes; OpenCV 4 takes a neighbouring row or column for up to a sixth of them, which moves the borders of resized label maps
# (INTER_NEAREST, which is not said to, takes others in both).
# Expected: equal in both. Seen: 4.14.0 differs from Pillow in 8 of 11 sizes, 5.0.0 in none.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat > "$dir/resize.py" <<'PY'
import cv2
import numpy
import PIL.Image

labels = numpy.arange(60 * 80, dtype=numpy.uint16).reshape(60, 80)
sizes = [(37, 23), (133, 97), (40, 30), (160, 120), (53, 60), (80, 41), (100, 60), (79, 60), (81, 60), (30, 60), (20, 20)]
other = []
for size in sizes:
    exact = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
    pillow = numpy.asarray(PIL.Image.fromarray(labels.astype(numpy.int32)).resize(size, PIL.Image.Resampling.NEAREST))
    if share := float((exact != pillow).mean()):
        other.append(share)
print(f"OpenCV {cv2.__version__}: {len(other)} of {len(sizes)} sizes differ from Pillow, at most {max(other, default=0):.0%} of a map")
assert (len(other) == 8) == cv2.__version__.startswith("4.") and (not other) == cv2.__version__.startswith("5.")
PY
for version in 4.14.0.94 5.0.0.93; do
    "${PYTHON:-python3}" -m venv "$dir/$version"
    "$dir/$version/bin/pip" install -q opencv-python-headless==$version pillow==13.0.0 numpy==2.2.6
    "$dir/$version/bin/python" "$dir/resize.py"
done
