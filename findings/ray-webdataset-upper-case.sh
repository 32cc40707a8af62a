#!/bin/sh
# ray[data] 2.60.0: read_webdataset decodes a.png to an array and leaves a.PNG as bytes, in a field of another name, while
# the webdataset library takes both for one. Shards packed from a camera's files read as a column of bytes.
# Expected: the same array in the same field. Seen: bytes in the field "PNG".
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q 'ray[data]==2.60.0' pillow==13.0.0
"$dir/venv/bin/python" - "$dir" 2>/dev/null <<'PY'
import io, sys, tarfile
from PIL import Image
import ray

data = io.BytesIO()
Image.new("RGB", (8, 8)).save(data, "PNG")
for name in ("a.png", "a.PNG"):
    with tarfile.open(f"{sys.argv[1]}/{name}.tar", "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data.getvalue())
        tar.addfile(info, io.BytesIO(data.getvalue()))
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
(lower,) = ray.data.read_webdataset(f"{sys.argv[1]}/a.png.tar").take_all()
(upper,) = ray.data.read_webdataset(f"{sys.argv[1]}/a.PNG.tar").take_all()
print("a.png:", type(lower["png"]).__name__, lower["png"].shape, "a.PNG:", type(upper["PNG"]).__name__)
assert lower["png"].shape == (8, 8, 3) and isinstance(upper["PNG"], bytes) and "png" not in upper
PY
