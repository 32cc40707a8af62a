#!/bin/sh
# pyspng 0.1.4: a grey PNG of 16 bits, as maps of depth are kept in, is loaded with two channels, the second one 65535 everywhere. A grey PNG
# of 8 bits has one channel, as its shape (height, width) says. So its mean is another one, and nothing is said.
# Expected: shape (height, width), uint16. Seen: (height, width, 2), the values in the first channel.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q pyspng==0.1.4 pillow==13.0.0 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
import io

import numpy
import PIL.Image
import pyspng

for kind in (numpy.uint8, numpy.uint16):
    depth = numpy.random.default_rng(0).integers(0, numpy.iinfo(kind).max, (12, 16)).astype(kind)
    file = io.BytesIO()
    PIL.Image.fromarray(depth).save(file, "PNG")
    read = pyspng.load(file.getvalue())
    print(f"{depth.dtype}: shape {read.shape}, {read.dtype}, mean {read.mean():.0f} of {depth.mean():.0f}")
    if kind is numpy.uint8:
        assert numpy.array_equal(read, depth), "8 bits are read otherwise now"
    else:
        assert read.shape == (12, 16, 2), "16 bits have another shape now"
        assert numpy.array_equal(read[..., 0], depth) and (read[..., 1] == 65535).all(), "the channels are others now"
PY
