#!/bin/sh
# img2dataset 1.47.0: a PNG of 16 bits a channel is decoded as it is and encoded as JPEG or WebP, where OpenCV cuts every value over
# 255 down to 255. All but nearly black pixels become white, and the picture counts as a success.
# Expected: the picture in 8 bits, as a viewer shows it. Seen: a grey ramp from black to white, mean 128 when it comes in 8 bits,
# comes back with a mean of 254 when it comes in 16.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q numpy==2.2.6 opencv-python-headless==4.11.0.86 albumentations==1.4.24
# The downloader's other needs (its logger, tables, command line) have no part in this.
"$dir/venv/bin/pip" install -q --no-deps img2dataset==1.47.0
NO_ALBUMENTATIONS_UPDATE=1 "$dir/venv/bin/python" - <<'PY'
import io, pathlib, runpy, sysconfig
import cv2
import numpy as np

Resizer = runpy.run_path(str(pathlib.Path(sysconfig.get_path("purelib"), "img2dataset/resizer.py")))["Resizer"]
ramp = np.tile(np.arange(256), (256, 1))


def mean(pixels, **options):
    """The mean of what the downloader stores for a PNG of `pixels`."""
    png = io.BytesIO(cv2.imencode(".png", pixels)[1].tobytes())
    stored, _, _, _, _, error = Resizer(128, "keep_ratio", False, **options)(png)
    assert error is None, error
    return float(cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_COLOR).mean())


for form in ("jpg", "webp"):
    for channels in (1, 3):
        eight, sixteen = (
            mean(np.repeat((ramp * times).astype(kind)[..., None], channels, axis=2), encode_format=form)
            for kind, times in ((np.uint8, 1), (np.uint16, 257))
        )
        print(f"{form}, {channels} channels: mean in 8 bits {eight:.1f}, in 16 bits {sixteen:.1f}")
        assert abs(eight - 127.5) < 2
        assert sixteen > 250, "16 bits come back as what they show now"
PY
