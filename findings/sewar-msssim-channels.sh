#!/bin/sh
# sewar 0.4.10: msssim halves a colour picture with a mean over two rows, two columns and two channels. So from the second scale on, each
# channel is mixed with the one before it, and the value depends on the order of the channels: the same two pictures read by OpenCV (BGR) and
# by Pillow (RGB) have different values, and errors of opposite sign in neighbouring channels cancel. A grey picture is right.
# Expected: the mean over the channels, in any order, as its own ssim gives. Seen: the same noise in red alone gives 0.84 and in blue alone
# 0.97, where the channels one by one give 0.91 to 0.92 on average for both.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q sewar==0.4.10 numpy==2.2.6 scipy==1.17.1 pillow==13.0.0
"$dir/venv/bin/python" - <<'PY'
import numpy
from scipy.ndimage import gaussian_filter
from sewar.full_ref import msssim, ssim

random = numpy.random.default_rng(0)
smooth = gaussian_filter(random.normal(size=(256, 256, 3)), (3, 3, 0))
noise = gaussian_filter(random.normal(size=(256, 256)), 2)
truth = smooth / smooth.std() * 30 + 128
seen = {}
for name, place in ("red", 0), ("blue", 2):
    noisy = truth.copy()
    noisy[..., place] += noise / noise.std() * 25
    first, second = (x.clip(0, 255).round().astype(numpy.uint8) for x in (truth, noisy))
    alone = numpy.mean([msssim(first[..., i], second[..., i]) for i in range(3)])
    seen[name] = rgb, bgr = msssim(first, second), msssim(first[..., ::-1], second[..., ::-1])
    print(f"noise in {name}: {rgb:.3f} as RGB, {bgr:.3f} as BGR, {alone:.3f} on average of the channels one by one")
    assert 0.9 < alone < 0.93
    assert abs(ssim(first, second)[0] - ssim(first[..., ::-1], second[..., ::-1])[0]) < 1e-9
    assert abs(rgb - bgr) > 0.1, "the order of the channels makes no difference now"
assert seen["red"][0] < 0.86 and seen["blue"][0] > 0.95, "the channels are weighed alike now"
PY
