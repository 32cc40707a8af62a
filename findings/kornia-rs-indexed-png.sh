#!/bin/sh
# kornia-rs 0.2.0: read_image of a PNG with a palette of more than 16 colours gives the indices into the palette, one channel of uint8 that
# passes for a grey picture, and no colour. With 16 colours and fewer it refuses the file, and read_image_png_u8 refuses both.
# Expected: the colours, or an error. Seen: shape (height, width, 1), each value the pixel's place in the palette.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q kornia-rs==0.2.0 pillow==13.0.0 numpy==2.2.6
"$dir/venv/bin/python" - "$dir" <<'PY'
import sys

import kornia_rs
import numpy
import PIL.Image

noise = numpy.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=numpy.uint8)
file = f"{sys.argv[1]}/drawn.png"
for colours in (200, 16):
    picture = PIL.Image.fromarray(noise).quantize(colours)
    picture.save(file)
    try:
        read = numpy.asarray(kornia_rs.read_image(file))
    except Exception as error:
        print(f"{colours} colours: {error}")
        assert colours == 16
        continue
    print(f"{colours} colours: shape {read.shape}, {read.dtype}")
    assert colours == 200, "a palette of 16 colours is read now"
    assert read.shape == (20, 20, 1) and numpy.array_equal(read[..., 0], numpy.asarray(picture)), "the colours are read now"
PY
