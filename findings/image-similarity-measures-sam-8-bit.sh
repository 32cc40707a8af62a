#!/bin/sh
# image-similarity-measures 0.3.6: sam (the spectral angle between two pictures) multiplies channels in the type of its input. Its own
# command reads pictures as 8 bit, where the products wrap around at 256, and the angle then says nothing.
# Expected: 0 degrees between a picture and itself, and more for a picture that is less like it, as in float64 (0 and 12 degrees here).
# Seen: 90 degrees for both.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q image-similarity-measures==0.3.6 numpy==1.26.4 scikit-image==0.20.0
"$dir/venv/bin/python" -W ignore - <<'PY'
import numpy
from image_similarity_measures.quality_metrics import sam

random = numpy.random.default_rng(0)
picture = random.integers(60, 200, (64, 64, 3)).astype(numpy.uint8)
noisy = numpy.clip(picture + random.integers(-60, 61, picture.shape), 0, 255).astype(numpy.uint8)
seen = {}
for name, against in ("itself", picture), ("the same with noise", noisy):
    seen[name] = float(sam(picture, against)), float(sam(picture.astype(float), against.astype(float)))
    print(f"a picture and {name}: {seen[name][0]:.1f} degrees of 8 bit, {seen[name][1]:.1f} of float64")
assert seen["itself"][1] < 0.01 and 5 < seen["the same with noise"][1] < 20
assert seen["itself"][0] > 80, "a picture is now like itself in 8 bit too"
PY
