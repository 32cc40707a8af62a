#!/bin/sh
# image-similarity-measures 0.3.6: sre (the signal to reconstruction error ratio) divides the square of the mean by the norm of the error
# over the number of pixels, where the definition has the square of that norm (Lanaras et al. 2018). So it is no ratio: it has the unit of
# the pixels, and depends on the number of pixels.
# Expected: the same decibels for 8-bit levels and for the same pictures in 0..1, and for two copies of a picture side by side; an error
# half as large is 6 dB better. Seen: 24 dB less in 0..1, 1.5 dB more for two copies, and half the error is 3 dB better.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q image-similarity-measures==0.3.6 numpy==1.26.4 scikit-image==0.20.0
"$dir/venv/bin/python" -W ignore - <<'PY'
import numpy
from image_similarity_measures.quality_metrics import sre


def defined(picture, other):
    """10 log10 of the square of the mean over the mean square of the error, of one channel."""
    return float(10 * numpy.log10(picture.mean() ** 2 / ((picture - other) ** 2).mean()))


random = numpy.random.default_rng(0)
picture = random.uniform(60, 200, (64, 64, 1))
error = random.normal(0, 8, picture.shape)
pairs = {
    "levels of 0 to 255": (picture, picture + error),
    "the same in 0..1": (picture / 255, (picture + error) / 255),
    "two copies side by side": tuple(numpy.concatenate([x, x], 1) for x in (picture, picture + error)),
    "half the error": (picture, picture + error / 2),
}
seen = {name: (float(sre(*pair)), defined(*pair)) for name, pair in pairs.items()}
for name, (given, right) in seen.items():
    print(f"{name}: sre {given:.2f} dB, by definition {right:.2f} dB")
(given, right), *others = seen.values()
assert max(abs(wanted - right - more) for (_, wanted), more in zip(others, (0, 0, 6.02))) < 0.1
for (changed, _), more in zip(others, (-24.07, 1.51, 3.01)):
    assert abs(changed - given - more) < 0.1, "sre is another formula now"
PY
