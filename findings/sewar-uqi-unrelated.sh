#!/bin/sh
# sewar 0.4.10: uqi (the universal quality index) takes means over its window where its formula asks for sums, and multiplies one term by the
# number of pixels as if they were sums. The covariance so drowns in the product of the means, and the index says little but whether two
# pictures are equally bright. d_lambda, d_s and qnr are made of it.
# Expected: about 0 for two pictures that have nothing in common and about -1 for a picture and its negative, as the definition gives (Wang
# and Bovik 2002). Seen: 0.95 and 0.91.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q sewar==0.4.10 numpy==2.2.6 scipy==1.17.1 pillow==13.0.0
"$dir/venv/bin/python" - <<'PY'
import numpy
from sewar.full_ref import uqi


def defined(first, second, size=8):
    """The mean over all windows of 4 * covariance * mean * mean / ((variance + variance) * (mean^2 + mean^2))."""
    windows = [numpy.lib.stride_tricks.sliding_window_view(x.astype(float), (size, size)).reshape(-1, size * size) for x in (first, second)]
    (a, b), (da, db) = [w.mean(1) for w in windows], [w - w.mean(1, keepdims=True) for w in windows]
    return float((4 * (da * db).mean(1) * a * b / (((da**2).mean(1) + (db**2).mean(1)) * (a**2 + b**2))).mean())


random = numpy.random.default_rng(0)
picture, other = random.integers(80, 176, (2, 64, 64)).astype(numpy.uint8)
for name, against in ("itself", picture), ("another", other), ("its negative", 255 - picture):
    print(f"a picture and {name}: uqi {uqi(picture, against):.3f}, by definition {defined(picture, against):.3f}")
assert abs(uqi(picture, picture) - 1) < 1e-9 and abs(defined(picture, picture) - 1) < 1e-9
assert abs(defined(picture, other)) < 0.05 and defined(picture, 255 - picture) < -0.95
assert uqi(picture, other) > 0.9 and uqi(picture, 255 - picture) > 0.85, "unrelated pictures have a low index now"
PY
