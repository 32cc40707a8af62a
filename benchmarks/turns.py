"""The turns of a conversation on an engine that keeps what it read, against one that reads all of it again.

    python benchmarks/turns.py                               # 85m, six turns
    python benchmarks/turns.py --size 10m --turns 3 --rounds 5 --json

A turn has `--words` new tokens and `--answer` written ones, which the next begins with, behind a system prompt of
`--system` tokens. A figure is the median over rounds of the processor's seconds from a turn to its first token. Both
sides have every turn of the same conversation, one after the other, so that what disturbs the machine disturbs both.
Weights are random: they cost the same. The tokens that were drawn are compared.
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

from cm3.bench.shapes import SHAPES, drawn, shape, words
from cm3.engine import Engine, FreeText, Request, Sampling
from cm3.vocab import Tokens


def ask(engine: Engine, request: Request) -> tuple[float, Tokens]:
    """Return the processor's seconds to the first token, and all of them."""
    began, first = time.process_time(), 0.0
    tokens = []
    for event in engine.stream([request]):
        first = first or time.process_time() - began
        tokens.append(event.tokens)
    return first, Tokens.concat(tokens)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="85m")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--system", type=int, default=200)
    parser.add_argument("--words", type=int, default=76)
    parser.add_argument("--answer", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = shape(args.size, args.system + args.turns * (args.words + args.answer))
    decoder, vocab, rng = drawn(config, torch.device("cpu")), words(config), np.random.default_rng(0)

    def text(length: int) -> Tokens:
        return Tokens.of(rng.integers(vocab.text_start, vocab.image_start, length))

    plan = (FreeText(args.answer - 1, end=(vocab.eos,), min_tokens=args.answer - 1),)
    seconds: dict[int, list[tuple[float, float]]] = {turn: [] for turn in range(1, args.turns + 1)}
    sizes, same = dict.fromkeys(seconds, 0), True
    for seed in range(args.rounds):
        keeping, plain = Engine(decoder, vocab, keep_gb=1.0), Engine(decoder, vocab)
        history = Tokens.concat([Tokens.of([vocab.eos]), text(args.system - 1)])
        for turn, times in seconds.items():
            history = Tokens.concat([history, text(args.words)])
            request = Request((history,), plan, Sampling(seed=seed))
            sides = [(keeping, 0), (plain, 1)][:: -1 if (seed + turn) % 2 else 1]
            made = {side: ask(engine, request) for engine, side in sides}
            times.append((made[0][0], made[1][0]))
            same = same and np.array_equal(made[0][1].ids, made[1][1].ids)
            sizes[turn] = history.length
            history = Tokens.concat([history, made[1][1]])
    report: dict[str, Any] = {"rows": [], "same": same, "load": os.getloadavg()[0], "threads": args.threads}
    print(f"{args.size}; all drawn tokens are the same: {same}; load {report['load']:.1f}")
    print(f"{'seconds to the first token':44} {'kept':>10} {'read again':>10} {'ratio':>7}")
    for turn, times in seconds.items():
        ours, peer = (statistics.median(side) for side in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b in times)
        name = f"turn {turn}, {sizes[turn]} tokens"
        print(f"{name:44} {ours:10.3f} {peer:10.3f} {ratio:7.2f}")
        report["rows"].append({"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": "s"})
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
