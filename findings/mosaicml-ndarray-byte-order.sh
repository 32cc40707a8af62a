#!/bin/sh
# mosaicml-streaming 0.13.0: a column of the kind "ndarray" writes the name of an array's type and the array's bytes as they lie.
# The name does not tell the order of the bytes, so an array in the other order (16-bit depth pictures, IDX and FITS files are
# read as ">u2" or ">f4") comes back with its bytes swapped. "ndarray:uint16", which names the type, refuses the same array.
# Expected: the numbers that were written, or an error as with a named type. Seen: 1, 256, 1000 come back as 256, 1, 59395.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q numpy==2.1.3 pillow==12.0.0 typing-extensions==4.16.0
# The rest of the package needs torch and the clients of five clouds; how a column is written and read needs none of them.
"$dir/venv/bin/pip" install -q --no-deps mosaicml-streaming==0.13.0
"$dir/venv/bin/python" - <<'PY'
import pathlib, runpy, sysconfig
import numpy as np

file = pathlib.Path(sysconfig.get_path("purelib"), "streaming/base/format/mds/encodings.py")
library = runpy.run_path(str(file))


def back(column, array):
    return library["mds_decode"](column, library["mds_encode"](column, array)).tolist()


numbers = [1, 256, 1000]
native, other = (back("ndarray", np.array(numbers, order)) for order in ("<u2", ">u2"))
print("written", numbers, "read from little-endian", native, "from big-endian", other)
assert native == numbers
assert other == [256, 1, 59395], "the order of the bytes is kept now"
try:
    back("ndarray:uint16", np.array(numbers, ">u2"))
except ValueError as error:
    print("with a named type: ValueError,", error)
else:
    raise SystemExit("changed: a named type takes the other order")
PY
