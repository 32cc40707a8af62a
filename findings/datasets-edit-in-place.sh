#!/bin/sh
# datasets 5.2.0: an image that Pillow opened from a file is stored as the file's path, whatever was done to it since. A change
# in place (thumbnail, paste, drawing) is lost in from_dict and in a map over a column of paths. The same map over the same
# picture held as bytes keeps the change, so a script that was tried on a data set of bytes fails in silence on a folder.
# Expected: the changed picture in each, or an error. Seen: 8 x 8 in the function and 32 x 32 in the data set made of paths.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q datasets==5.2.0 pillow==13.0.0
HF_HUB_OFFLINE=1 HF_HOME="$dir/home" "$dir/venv/bin/python" - "$dir/a.png" <<'PY'
import pathlib, sys
import datasets
from PIL import Image

datasets.disable_progress_bars()
file = pathlib.Path(sys.argv[1])
Image.new("RGB", (32, 32)).save(file)
features = datasets.Features({"image": datasets.Image()})


def shrink(row):
    row["image"].thumbnail((8, 8))
    return {"image": row["image"], "wide": row["image"].width}


def mapped(value):
    (row,) = datasets.Dataset.from_dict({"image": [value]}, features=features).map(shrink)
    return row["wide"], row["image"].width


opened = Image.open(file)
opened.thumbnail((8, 8))
(stored,) = datasets.Dataset.from_dict({"image": [opened]}, features=features)
of_path, of_bytes = mapped(str(file)), mapped(file.read_bytes())
print("from_dict: given", opened.width, "stored", stored["image"].width)
print("map: given and stored", of_path, "for a path,", of_bytes, "for bytes")
assert of_bytes == (8, 8)
assert (opened.width, stored["image"].width) == (8, 32) and of_path == (8, 32), "the changed picture is stored now"
PY
