#!/bin/sh
# webdataset 1.0.2: the key of a sample ends at the first dot of a file's name. Files of pictures with dots in their names,
# as by version or scale (x_1.5.jpg, x_1.7.jpg), become one sample with the fields "5.jpg" and "7.jpg".
# Expected: two samples, each a jpg and a txt. Seen: one sample without either field, and no warning.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q webdataset==1.0.2 numpy==2.2.6
"$dir/venv/bin/python" - "$dir/shard.tar" <<'PY'
import io, sys, tarfile
import webdataset

with tarfile.open(sys.argv[1], "w") as tar:
    for name in ("x_1.5.jpg", "x_1.5.txt", "x_1.7.jpg", "x_1.7.txt"):
        info = tarfile.TarInfo(name)
        info.size = len(name)
        tar.addfile(info, io.BytesIO(name.encode()))
samples = list(webdataset.WebDataset(sys.argv[1], shardshuffle=False))
fields = [sorted(k for k in s if not k.startswith("__")) for s in samples]
print(len(samples), "sample of", fields)
assert fields == [["5.jpg", "5.txt", "7.jpg", "7.txt"]] and samples[0]["__key__"] == "x_1"
PY
