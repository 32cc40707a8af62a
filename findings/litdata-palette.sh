#!/bin/sh
# litdata 0.2.76: optimize writes a Pillow picture (other than one opened from a JPEG) as its mode, size and raw bytes. Those of
# a picture with a palette, as PNG and GIF files often have, are indices, and the palette is not written: the picture comes back
# as mode P with another palette, black or in wrong colours, and nothing says so.
# Expected: its colours, or an error. Seen: blue comes back black; the same blue as RGB comes back blue.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 litdata==0.2.76 pillow==13.0.0
cat > "$dir/pack.py" <<'PY'
import sys
import litdata
from PIL import Image

if __name__ == "__main__":
    folder = sys.argv[1]
    blue = Image.new("RGB", (4, 4), (0, 0, 250))
    blue.save(f"{folder}/rgb.png")
    blue.convert("P", palette=Image.Palette.ADAPTIVE).save(f"{folder}/palette.png")
    files = [f"{folder}/{name}.png" for name in ("rgb", "palette")]
    given = [Image.open(file).convert("RGB").getpixel((0, 0)) for file in files]
    litdata.optimize(fn=Image.open, inputs=files, output_dir=f"{folder}/packed", num_workers=1, chunk_bytes="1MB")
    rows = {picture.mode: picture.convert("RGB").getpixel((0, 0)) for picture in litdata.StreamingDataset(f"{folder}/packed")}
    print("given", given, "read", rows)
    assert given == [(0, 0, 250)] * 2 and rows["RGB"] == (0, 0, 250)
    assert rows.get("P") == (0, 0, 0), "colours of a palette come back now"
PY
HOME="$dir" "$dir/venv/bin/python" "$dir/pack.py" "$dir" > "$dir/said"
tail -n 1 "$dir/said"
