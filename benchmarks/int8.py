"""A decode step in int8 against float32, and what int8 costs in quality: both sides by turns, in one process.

    python benchmarks/int8.py                                  # 10m and 85m, one, two and eight rows
    python benchmarks/int8.py --sizes 10m --rows 1 --rounds 9 --json
    python benchmarks/int8.py --sizes none --quality 60       # nats a token and drawn scenes of the model

A step reads one token of each row after `--cached` others and gives the logits of all ids, as the engine's step does.
A figure is the median of the rounds of a side, in milliseconds of the processor; sides alternate step by step, so that
what disturbs the machine disturbs both. Weights are random: they cost the same. The shapes are those of
cm3/bench/shapes.py.

`--quality N` measures N test scenes, which the model was not trained on: nats a token of their documents, caption
before picture, by modality, and the share of N captions of which the picture drawn shows just that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

import cm3
from cm3.bench.shapes import drawn, shape
from cm3.engine.cache import Append, Cache, Prefill
from cm3.model.attention import Causal
from cm3.model.decoder import Decoder
from cm3.model.int8 import quantised, reach
from cm3.precision import flags

SIZES = ("test", "10m", "85m")


class Side:
    """One decoder with rows of cached tokens, of which a step reads one more and forgets it."""

    def __init__(self, model: Decoder, rows: int, cached: int) -> None:
        self.model, self.rows, self.cached = model, rows, cached
        self.cache = Cache(rows, model.config.context)
        self.ids = torch.arange(rows * cached).view(rows, cached) % model.config.vocab_size
        attend = Prefill(self.cache, [[row] for row in range(rows)], [cached] * rows, self.ids.device)
        model.hidden(self.ids, torch.arange(cached).expand(rows, -1), attend)

    def step(self) -> tuple[float, Tensor]:
        """Return the seconds of the processor and the logits."""
        began = time.process_time()
        attend = Append(self.cache, [self.cached] * self.rows, [1] * self.rows, self.ids.device)
        logits = self.model.head(self.model.hidden(self.ids[:, :1], attend.positions, attend)[:, 0])
        return time.process_time() - began, logits


def speed(size: str, rows_of: list[int], rounds: int, cached: int) -> list[dict[str, Any]]:
    """One line for each number of rows."""
    plain = drawn(shape(size, cached + 64), torch.device("cpu"))
    small = quantised(plain).pack()
    plain.lay_out()
    lines = []
    for rows in rows_of:
        sides = [Side(small, rows, cached), Side(plain, rows, cached)]
        times: list[list[float]] = [[], []]
        for turn in range(rounds + 2):
            made = [side.step() for side in (sides if turn % 2 else sides[::-1])]
            for (took, _), into in zip(made if turn % 2 else made[::-1], times, strict=True):
                if turn > 1:  # the first two warm up
                    into.append(took * 1e3)
            apart = made[0][1] - made[1][1]
            assert float(apart.norm() / made[0][1].norm()) < 0.2, "the sides do not compute the same"
        ours, peer = map(statistics.median, times)
        lines.append({"name": f"{size}, {rows} rows", "ours": ours, "peer": peer, "ratio": peer / ours, "unit": "ms"})
    return lines


def quality(n: int) -> list[dict[str, Any]]:
    """Nats a token by modality, and drawn scenes, in int8 and in float32. A ratio over 1 is for int8."""
    from cm3.scenes import describe, draw, random_scene
    from cm3.scenes.eval.scene_scores import evaluate_scenes

    plain, small = cm3.load("scenes"), cm3.load("scenes", dtype="int8")
    rng, vocab = np.random.default_rng(7), plain.vocab
    sums = {name: np.zeros(2) for name in ("int8", "float32", "int8, float32 head")}
    counts = np.zeros(2)
    for _ in range(n):
        scene = random_scene(rng, split="test")
        document = cm3.Document((cm3.Text(describe(scene, rng)), cm3.Image(draw(scene, plain.image_size, rng))))
        tokens = plain.codec.encode(document)
        ids, cells = (torch.from_numpy(np.asarray(t, dtype=np.int64))[None] for t in (tokens.ids, tokens.cells))
        at = torch.arange(ids.shape[1])[None]
        hidden = {m: m.hidden(ids, at, Causal(), cells)[0, :-1] for m in (plain.decoder, small.decoder)}
        logits = {
            "int8": small.decoder.head(hidden[small.decoder]),
            "float32": plain.decoder.head(hidden[plain.decoder]),
            "int8, float32 head": plain.decoder.head(hidden[small.decoder]),
        }
        kinds = [torch.from_numpy(np.asarray(f(tokens.ids[1:]))) for f in (vocab.is_text, vocab.is_image)]
        for name, value in logits.items():
            nats = -value.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            sums[name] += [float(nats[kind].sum()) for kind in kinds]
        counts += [int(kind.sum()) for kind in kinds]
    mean = {name: total / counts for name, total in sums.items()}
    lines = []
    for name in ("int8", "int8, float32 head"):
        for i, kind in enumerate(("text", "image")):
            ours, peer = mean[name][i], mean["float32"][i]
            line = {"ours": ours, "peer": peer, "ratio": peer / ours, "unit": "nats a token"}
            lines.append({"name": f"{kind} of {n} test scenes, {name}"} | line)
    drawn = [evaluate_scenes(m, n=n, seed=1, tasks=("text_to_image",))["text_to_image"] for m in (small, plain)]
    ours, peer = (d["exact"] for d in drawn)
    ratio = ours / peer if peer else float("nan")
    lines.append({"name": f"exact of {n} drawn scenes", "ours": ours, "peer": peer, "ratio": ratio, "unit": "share"})
    return lines


def main() -> None:
    """Measure and print a table; with --json one line more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=lambda s: [] if s == "none" else s.split(","), default=["10m", "85m"])
    parser.add_argument("--rows", type=lambda s: [int(x) for x in s.split(",")], default=[1, 2, 8])
    parser.add_argument("--rounds", type=int, default=21, help="steps of each side")
    parser.add_argument("--cached", type=int, default=200, help="tokens that a row has before the step")
    parser.add_argument("--quality", type=int, default=0, metavar="N", help="test scenes to measure quality on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if odd := [size for size in args.sizes if size not in SIZES]:
        parser.error(f"--sizes {odd[0]}: must be of {', '.join(SIZES)}, or none")
    torch.set_num_threads(args.threads)
    report: dict[str, Any] = {
        "rows": [], "flags": flags(), "levels": 2 * reach() + 1,
        "load": os.getloadavg()[0], "threads": args.threads, "torch": torch.__version__,
    }  # fmt: skip
    print(f"processor: {', '.join(report['flags'])}; activations have {report['levels']} levels; load {report['load']}")
    print(f"{'':44} {'int8':>10} {'float32':>10} {'ratio':>7}")
    with torch.inference_mode():
        for make in [lambda s=s: speed(s, args.rows, args.rounds, args.cached) for s in args.sizes]:
            report["rows"] += tell(make())
        if args.quality:
            report["rows"] += tell(quality(args.quality))
    if args.json:
        print(json.dumps(report))


def tell(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print lines of the table; returns them."""
    for line in lines:
        print(f"{line['name']:44} {line['ours']:10.3f} {line['peer']:10.3f} {line['ratio']:7.2f} {line['unit']}")
    return lines


if __name__ == "__main__":
    main()
