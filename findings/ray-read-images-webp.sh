#!/bin/sh
# ray[data] 2.60.0: read_images of a folder reads png, jpg, jpeg, tif, tiff, bmp and gif, and leaves out WebP (and AVIF)
# without a word, though it reads the same file where it is named by itself.
# Expected: all pictures of the folder, or a warning. Seen: one of two.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q 'ray[data]==2.60.0' pillow==13.0.0
mkdir "$dir/pictures"
"$dir/venv/bin/python" - "$dir/pictures" 2>/dev/null <<'PY'
import sys
from PIL import Image
import ray

for name in ("a.png", "b.webp"):
    Image.new("RGB", (8, 8)).save(f"{sys.argv[1]}/{name}")
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
folder = ray.data.read_images(sys.argv[1]).count()
alone = ray.data.read_images(f"{sys.argv[1]}/b.webp", file_extensions=None).count()
print(f"folder of a png and a webp: {folder} picture; the webp by itself: {alone}")
assert (folder, alone) == (1, 1)
PY
