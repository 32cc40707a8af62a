#!/bin/sh
# grain 0.2.18: WindowShuffleMapDataset shuffles a last window that is shorter than the others as if it were whole. Its places
# beyond the end wrap round to the beginning, as they do in every map dataset of grain, so in one pass some samples come twice and
# others never. WindowShuffleIterDataset shuffles the short window by itself.
# Expected: every sample once in a pass. Seen: of 10 samples in windows of 4, sample 9 never comes with seed 0, and 8 and 9 never
# with seed 1, while some of the first come twice. Windows that divide the length are right.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q grain==0.2.18 numpy==2.2.6
"$dir/venv/bin/python" - <<'PY'
from absl import logging

logging.set_verbosity(logging.ERROR)
import grain
from grain.experimental import WindowShuffleIterDataset, WindowShuffleMapDataset

samples = grain.MapDataset.range(10)


def one_pass(seed, window):
    return list(WindowShuffleMapDataset(samples, window_size=window, seed=seed).to_iter_dataset())


for seed in range(4):
    found = one_pass(seed, 4)
    print("seed", seed, "gives", found, "and never", sorted(set(range(10)) - set(found)))
    assert sorted(one_pass(seed, 5)) == list(range(10)), "windows that divide the length lose nothing"
    in_turn = WindowShuffleIterDataset(samples.to_iter_dataset(), window_size=4, seed=seed)
    assert sorted(in_turn) == list(range(10)), "the dataset over an iterator loses nothing"
assert {8, 9}.isdisjoint(one_pass(1, 4)), "a short last window loses no sample now"
PY
