#!/bin/sh
# datasets 5.2.0: load_dataset("webdataset") takes the columns from the first five samples of one shard. A field that begins
# later, such as captions that the first pictures lack, is left out of every sample without a word. Where samples two to five
# differ from the first it raises ValueError, so there is a check, and it ends at five.
# Expected: a column with None where it lacks, or the same error. Seen: no column, the same when streaming.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q datasets==5.2.0
HF_HUB_OFFLINE=1 HF_HOME="$dir/home" "$dir/venv/bin/python" - "$dir" <<'PY'
import io, sys, tarfile
import datasets

datasets.disable_progress_bars()


def columns(first, streaming=False):
    """The columns of eight samples whose captions begin with sample `first`."""
    shard = f"{sys.argv[1]}/{first}.tar"
    with tarfile.open(shard, "w") as tar:
        for sample in range(8):
            for name in [f"{sample}.cls"] + [f"{sample}.txt"] * (sample >= first):
                info = tarfile.TarInfo(name)
                info.size = 1
                tar.addfile(info, io.BytesIO(b"1"))
    rows = datasets.load_dataset("webdataset", data_files=shard, split="train", streaming=streaming)
    return {name for row in rows for name in row if not name.startswith("__")}


for streaming in (False, True):
    late = columns(5, streaming)
    print("captions from sample 0:", columns(0, streaming), "from sample 5:", late)
    assert columns(0, streaming) == {"cls", "txt"} and late == {"cls"}, "late fields are columns now"
try:
    columns(4)
except ValueError as error:
    print("from sample 4: ValueError,", error)
else:
    raise SystemExit("changed: from sample 4 there is no error")
PY
