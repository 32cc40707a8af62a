#!/bin/sh
# open-clip-torch 3.3.0: the preprocessing that belongs to a model resizes a picture first and makes it RGB afterwards. Pillow resizes pictures
# with a palette (many PNG files, all GIF files) and those of one bit by taking the nearest pixel, whatever is asked, so these alone get
# no bicubic filter. The manual's own call, preprocess(Image.open(...)), does so; the transform for training is the same.
# Expected: the same input for the same colours, as both files show one picture. Seen: a fine pattern, which the filter makes an even grey, comes
# out black and white; preprocess(Image.open(...).convert("RGB")) is right.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q open-clip-torch==3.3.0 torch==2.13.0 torchvision==0.28.0 timm==1.0.31 numpy==2.2.6 pillow==13.0.0
"$dir/venv/bin/python" - <<'PY'
import io
import sys
import types

# The compiled operators of torchvision have no part in this: without this module any build of it can be imported.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
import numpy
import torch
from open_clip.transform import image_transform
from PIL import Image


def stored(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return Image.open(file)


pixels = numpy.random.default_rng(0).integers(0, 2, (512, 512), dtype=numpy.uint8) * 255
colour = Image.fromarray(pixels).convert("RGB")
full, indexed = stored(colour), stored(colour.quantize(16))
assert (full.mode, indexed.mode) == ("RGB", "P") and (numpy.asarray(full) == numpy.asarray(indexed.convert("RGB"))).all()
for train in False, True:
    preprocess = image_transform(64, is_train=train, mean=(0, 0, 0), std=(1, 1, 1))
    spread = {}
    for name, picture in ("RGB", full), ("palette", indexed), ("palette made RGB", indexed.convert("RGB")):
        torch.manual_seed(0)
        spread[name] = float(preprocess(picture).std())
    print("training" if train else "evaluation", {name: round(value, 3) for name, value in spread.items()})
    assert spread["RGB"] == spread["palette made RGB"] < 0.1
    assert spread["palette"] > 0.45, "pictures with a palette are filtered now"
PY
