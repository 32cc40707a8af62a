#!/bin/sh
# tfrecord 1.14.6: a feature that holds several byte strings (two pictures' raw pixels, say) is read into an array of numpy's
# fixed-length bytes, which drops zeros at the end of each string. A feature of one string comes back as it was.
# Expected: the bytes that were written. Seen: pixels 5, 6, 0, 0 come back as 5, 6, and black pictures as nothing.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q tfrecord==1.14.6 numpy==2.2.6
"$dir/venv/bin/python" - "$dir/a.tfrecord" <<'PY'
import sys
from tfrecord.reader import tfrecord_loader
from tfrecord.writer import TFRecordWriter

pictures = [bytes([5, 6, 0, 0]), bytes([1, 2, 3, 4]), bytes(4)]
writer = TFRecordWriter(sys.argv[1])
writer.write({"one": (pictures[0], "byte"), "all": (pictures, "byte")})
writer.close()
(read,) = tfrecord_loader(sys.argv[1], None)
found = [bytes(value) for value in read["all"]]
print("written", pictures, "read", found)
assert read["one"] == pictures[0], "one string comes back as it was"
assert found == [picture.rstrip(b"\0") for picture in pictures] and found != pictures, "zeros are kept now"
PY
