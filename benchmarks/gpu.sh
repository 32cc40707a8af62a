#!/bin/bash
# Takes all figures of this project that need a GPU, in one call of under eight minutes, and writes them as one JSON
# object to stdout; progress goes to stderr. A part that fails, or takes longer than it may, has a row that says so.
#
#   bash benchmarks/gpu.sh > gpu.json
#   bash benchmarks/gpu.sh --smoke      the same on a processor, with the smallest model: tells that the script works
#
# PYTHON is the Python to take (python3), PEAK the GPU's peak in bfloat16 in TFLOP/s (989, an H100's and an H200's).
set -u
cd "$(dirname "$0")/.."
export PYTHON=${PYTHON:-python3} PYTHONPATH=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

part() {  # NAME SECONDS ARGUMENTS...: runs a benchmark; keeps its last line, or why there is none
  local name=$1 limit=$2 code=0
  shift 2
  echo "$name" >> "$work/parts"
  if [ -n "$nothing" ]; then echo "$nothing" > "$work/$name.why"; return; fi
  echo "$name: at most $limit s" >&2
  timeout --kill-after=5 "$limit" "$PYTHON" "$@" --json > "$work/$name.out" 2> "$work/$name.err" || code=$?
  if [ $code -eq 0 ]; then
    tail -n 1 "$work/$name.out" > "$work/$name.json"
  elif [ $code -eq 124 ] || [ $code -eq 137 ]; then
    echo "it took longer than $limit s" > "$work/$name.why"
  else
    tail -n 1 "$work/$name.err" > "$work/$name.why"
  fi
}

nothing=
if [ "${1:-}" = --smoke ]; then
  part decode_test 600 benchmarks/decode.py --shapes test --cases one,guided,mixed --prompt 8 --new 4 --rounds 1
  part decode_test_no_graphs 600 benchmarks/decode.py --shapes test --cases one --prompt 8 --new 4 --rounds 1 --no-peer \
    --no-graphs
  part windows 600 benchmarks/decode.py --model scenes --rounds 1
  part train 600 benchmarks/train.py --sizes test --lengths 64 --windows 1 --rounds 1 --steps 1 --threads 1 --cpu
elif [ $# -gt 0 ]; then
  echo "gpu.sh: $1: no such option; give --smoke or nothing" >&2
  exit 2
else
  "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2> /dev/null || nothing="no GPU"
  cases="--cases one,guided,eight,mixed,arrivals --dtypes bfloat16,int8 --rounds 1"
  part decode_85m 95 benchmarks/decode.py --device cuda --shapes 85m $cases
  # The same with steps that are issued kernel by kernel: the rows of decode_85m in bfloat16 are to be compared with these.
  part decode_85m_no_graphs 25 benchmarks/decode.py --device cuda --shapes 85m --cases one,eight --rounds 1 --no-peer \
    --dtypes bfloat16 --no-graphs
  part decode_350m 100 benchmarks/decode.py --device cuda --shapes 350m $cases
  # A picture of 256 pixels with guidance. The peer would take most of the time that there is.
  part decode_7b 110 benchmarks/decode.py --device cuda --shapes 7b --cases guided --new 1024 --rounds 1 --no-peer \
    --dtypes bfloat16,int8
  part windows 35 benchmarks/decode.py --device cuda --model scenes --rounds 5
  part train 110 benchmarks/train.py --device cuda --sizes 350m --lengths 4096 --windows 2 --rounds 2 --steps 2 \
    --dtypes bfloat16 --peak "${PEAK:-989}"
fi
nothing="there is no benchmark of tokenizers"
part tokenizers 0

"$PYTHON" - "$work" << 'PY'
import json
import sys
from pathlib import Path

work, rows, parts = Path(sys.argv[1]), [], {}
empty = {"ours": None, "peer": None, "ratio": None, "unit": None}
for name in (work / "parts").read_text().split():
    if (work / f"{name}.json").exists():
        parts[name] = json.loads((work / f"{name}.json").read_text())
        rows += [{"part": name, **row} for row in parts[name].pop("rows")]
    else:
        why = (work / f"{name}.why").read_text().strip()
        rows.append({"part": name, "name": name, **empty, "why": f"not measured: {why}"})
print(json.dumps({"rows": rows, "parts": parts}))
PY
