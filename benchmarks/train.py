"""The training step against Hugging Face's Chameleon: tokens a second, memory and arithmetic, measured in one run.

    python benchmarks/train.py --json                              # 10m and 85m, windows of 512 and 1,024
    python benchmarks/train.py --sizes 10m --lengths 512 --threads 1 --cpu
    python benchmarks/train.py --sizes 10m --lengths 512 --dtypes float32,bfloat16      # emulated too: very slow
    python benchmarks/train.py --device cuda --peak 989        # 350m and 760m at 4,096; 989 is an H100's TFLOP/s

A step is forward, loss, backward, gradient clip and AdamW (torch's, fused) on the same documents with the same weights:
before anything is timed, both models have to give the same logits and the same loss, in float32. The decoder is
configured as Chameleon: RMS norm with weights, SwiGLU, rotary positions, QK-norm, untied. Blocks of steps alternate,
ours and the peer's, so that whatever disturbs the machine disturbs both; rates are of the median block. With --cpu they
are by processor seconds, which other work on the machine disturbs little; for one thread only.

Documents are a caption of 10 to 60 tokens and a picture of a quarter of the window; with --single each fills a window.
Ours takes them packed into windows. The peer is measured in both of these ways, and compared is the one that is faster:

    packed    the same windows, positions that begin again with each document, from which it makes its mask
    padded    a document a row, filled up to the longest; no mask is needed then

Both are measured in float32 and, where the device computes in it (cm3/precision.py), in bfloat16: ours as the trainer
does it, by a copy beside float32 weights, the peer under torch's autocast, as its own trainer does it. The rows without
a number type compare the best of each side. What the processor has stands in the last line.

Tokens are those of documents; padding does not count. Memory is the peak of a process that does nothing else, less what
it had after a step of the smallest model. With --heap the C library keeps freed memory, for both sides; otherwise it
gives it back to the system after each step, to take it again page by page. The peer's own rule that images are never
written is lifted, as it could not be trained with it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cm3.bench.peer import as_chameleon, chameleon
from cm3.bench.shapes import SHAPES, shape, words
from cm3.data.load import LOOKAHEAD
from cm3.data.pack import best_fill
from cm3.model.attention import Blocked
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.loss import next_token_loss
from cm3.model.sizes import flops_per_token, parameters
from cm3.parallel import HalfCopy, Mesh, ShardConfig
from cm3.precision import flags, has_bfloat16
from cm3.vocab import Vocab

WAYS, PEERS, TYPES = ("ours", "packed", "padded"), ("packed", "padded"), ("float32", "bfloat16")
CLOSE = 1e-4
LR, CLIP = 1e-4, 1.0
KEPT = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**40)}
"""glibc's: never give memory back."""
Step = Callable[[], float]


def documents(
    length: int, windows: int, vocab: Vocab, rng: np.random.Generator, single: bool = False
) -> list[list[np.ndarray]]:
    """Documents by window, packed as the loader packs: the best fill among those read ahead; or one each."""
    if single:
        return [[np.append(vocab.eos, rng.integers(vocab.text_start, vocab.size, length - 1))] for _ in range(windows)]
    made: list[list[np.ndarray]] = []
    ahead: list[np.ndarray] = []
    for _ in range(windows):
        while len(ahead) < LOOKAHEAD:
            caption = rng.integers(vocab.text_start, vocab.image_start, rng.integers(10, min(60, length // 4)))
            picture = rng.integers(vocab.image_start, vocab.size, length // 4)
            ahead.append(np.concatenate([[vocab.eos], caption, [vocab.brk], picture, [vocab.eos]]))
        chosen = best_fill([len(d) for d in ahead], length, first=True)
        made.append([ahead[i] for i in chosen])
        ahead = [d for i, d in enumerate(ahead) if i not in chosen]
    return made


def windows_of(rows: list[list[np.ndarray]], length: int, pad: int) -> dict[str, Tensor]:
    """Rows of documents as arrays (rows, length); `targets` is -100 where there is none."""
    arrays = {k: np.zeros((len(rows), length), np.int64) for k in ("ids", "positions", "documents", "targets")}
    arrays["ids"][:] = pad
    arrays["targets"][:] = -100
    for i, row in enumerate(rows):
        at = 0
        for number, tokens in enumerate(row, start=1):
            end = at + len(tokens)
            arrays["ids"][i, at:end], arrays["documents"][i, at:end] = tokens, number
            arrays["positions"][i, at:end], arrays["targets"][i, at : end - 1] = np.arange(end - at), tokens[1:]
            at = end
        arrays["positions"][i, at:] = np.arange(length - at)  # padding: one more document
    return {k: torch.from_numpy(v) for k, v in arrays.items()}


class Ours:
    """Our decoder and loss on windows."""

    def __init__(
        self, config: DecoderConfig, rows: list[list[np.ndarray]], length: int, device: str, dtype: str = "float32"
    ) -> None:
        self.name, self.way, self.dtype = f"ours {dtype}", "ours", dtype
        torch.manual_seed(0)
        self.vocab = words(config)
        self.model = Decoder(config)
        with torch.no_grad():  # fresh, its residual outputs are zero: there would be little to compare
            for p in self.model.parameters():
                p.copy_(torch.randn(p.shape) * 0.02 + (p == 1))
        self.model.to(device)
        self.half: HalfCopy | None = None
        if dtype == "bfloat16":
            self.half = HalfCopy(self.model, Mesh((1, 1, 1), 0, torch.device(device), None), ShardConfig())
        batch = windows_of(rows, length, self.vocab.pad)
        self.batch = {k: v.to(device) for k, v in batch.items()}
        self.weights = (self.batch["targets"] >= 0).float()

    def logits(self) -> Tensor:
        """(tokens with a target, v), in the order of documents."""
        b = self.batch
        return self.model(b["ids"], b["positions"], Blocked(b["documents"]))[b["targets"] >= 0]

    def loss(self) -> Tensor:
        b, model = self.batch, self.model
        if self.half is not None:
            self.half.refresh()
            model = self.half.model
        hidden = model.hidden(b["ids"], b["positions"], Blocked(b["documents"])).flatten(0, 1)
        targets = b["targets"].clamp_min(0).flatten()
        return next_token_loss(model.head, hidden, targets, self.weights.flatten(), self.vocab).total


class Peer:
    """transformers' ChameleonForConditionalGeneration; `way` is packed or padded."""

    def __init__(
        self,
        config: DecoderConfig,
        rows: list[list[np.ndarray]],
        length: int,
        device: str,
        way: str,
        dtype: str = "float32",
    ) -> None:
        self.name, self.way, self.dtype, self.device = f"{way} {dtype}", way, dtype, device
        torch.manual_seed(0)
        model = chameleon(config, use_cache=False)
        self.model = model.to(device).train()
        if way == "padded":
            rows, length = [[d] for row in rows for d in row], max(len(d) for row in rows for d in row)
        self.batch = {k: v.to(device) for k, v in windows_of(rows, length, words(config).pad).items()}
        # Its loss shifts by itself: a label stands where the token is, and none at the start of a document.
        labels = torch.full_like(self.batch["targets"], -100)
        labels[:, 1:] = self.batch["targets"][:, :-1]
        self.arguments = {"input_ids": self.batch["ids"], "labels": labels}
        if way == "packed":
            self.arguments["position_ids"] = self.batch["positions"]

    def take(self, model: Decoder) -> None:
        """Our weights."""
        self.model.load_state_dict(as_chameleon(model))

    def logits(self) -> Tensor:
        """(tokens with a target, v), in the order of documents."""
        return self.model(**self.arguments).logits[self.batch["targets"] >= 0]

    def loss(self) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            return self.model(**self.arguments).loss


def side_of(
    config: DecoderConfig, rows: list[list[np.ndarray]], length: int, device: str, way: str, dtype: str
) -> Ours | Peer:
    """A side by its way: ours, packed or padded."""
    if way == "ours":
        return Ours(config, rows, length, device, dtype)
    return Peer(config, rows, length, device, way, dtype)


def stepper(side: Ours | Peer) -> Step:
    """One training step of a side; gives its loss."""
    parameters = [p for p in side.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LR, fused=True)

    def step() -> float:
        loss = side.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def check(ours: Ours, peer: Peer) -> dict[str, float]:
    """Largest difference of logits and of the loss at equal weights, in float32. Raises where they are not the same."""
    peer.take(ours.model)
    with torch.no_grad():
        apart = {
            "logits": float((ours.logits() - peer.logits()).abs().max()),
            "loss": float((ours.loss() - peer.loss()).abs()),
        }
    if not all(difference < CLOSE for difference in apart.values()):  # not a number is not less
        raise SystemExit(f"the two models differ: {apart} ({peer.name}); nothing was timed")
    return apart


def stage_speed(args: argparse.Namespace, size: str, length: int) -> dict[str, Any]:
    """Seconds a step of each way, by alternating blocks."""
    config = shape(size, length)
    rows = documents(length, args.windows, words(config), np.random.default_rng(0), args.single)
    ours = Ours(config, rows, length, args.device)
    apart = [check(ours, Peer(config, rows, length, args.device, way)) for way in PEERS]
    sides = [side_of(config, rows, length, args.device, way, kind) for kind in args.dtypes for way in WAYS]
    for side in sides:
        if isinstance(side, Peer):
            side.take(ours.model)
    del ours
    steps = {side.name: stepper(side) for side in sides}
    clock = time.process_time if args.cpu else time.perf_counter
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    losses: dict[str, float] = {}
    for turn in range(args.rounds + 1):
        # Forwards, then backwards, so that nobody always follows the same one.
        for side in sides[:: 1 if turn % 2 else -1]:
            began = clock()
            for _ in range(args.steps):
                losses[side.name] = steps[side.name]()
            if args.device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first is to warm up
                seconds[side.name].append((clock() - began) / args.steps)
    tokens = sum(len(d) for row in rows for d in row)
    count = sum(len(row) for row in rows)
    return {
        "seconds": {name: statistics.median(s) for name, s in seconds.items()},
        "spread": {name: round(max(s) / min(s), 3) for name, s in seconds.items()},
        "tokens": tokens,
        "fill": round(tokens / (args.windows * length), 3),
        "flops_a_token": flops_per_token(config, round(tokens / count)),
        "parameters": parameters(config),
        "apart": {k: max(a[k] for a in apart) for k in apart[0]},
        "loss_after": losses,
    }


def stage_memory(args: argparse.Namespace, size: str, length: int, way: str, dtype: str) -> dict[str, Any]:
    """Peak memory of two steps of one side, in a process of its own; the second has the optimizer's state."""

    def prepared(size: str, length: int) -> Step:
        config = shape(size, length)
        rows = documents(length, args.windows, words(config), np.random.default_rng(0), args.single)
        return stepper(side_of(config, rows, length, args.device, way, dtype))

    # What libraries load when they are first used is not the model's.
    prepared("test", 64)()
    before = resident_mb()
    step = prepared(size, length)
    for _ in range(2):
        step()
    if args.device == "cuda":
        return {"mb": torch.cuda.max_memory_allocated() / 2**20}
    return {"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before}


def resident_mb() -> float:
    """What this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def stage(args: argparse.Namespace, *words: object) -> dict[str, Any]:
    """Run a stage in a process of its own."""
    command = [sys.executable, os.path.abspath(__file__), "--stage", " ".join(map(str, words))]
    command += [f"--{k}={getattr(args, k)}" for k in ("windows", "rounds", "steps", "threads", "device")]
    command += [f"--dtypes={','.join(args.dtypes)}"] + ["--cpu"] * args.cpu + ["--single"] * args.single
    env = os.environ | {"OMP_NUM_THREADS": str(args.threads)} | (KEPT if args.heap else {})
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env)
    if ran.returncode:
        raise SystemExit(f"stage {words} failed")
    return json.loads(ran.stdout.splitlines()[-1])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All rows."""
    rows, details = [], []
    for size in args.sizes:
        for length in args.lengths:
            made = stage(args, "speed", size, length)
            of = f"{size}, {length}" + ", single" * args.single
            rate = {side: made["tokens"] / made["seconds"][side] for side in made["seconds"]}
            for kind in TYPES:
                if kind not in args.dtypes:
                    rows.append(untold(f"tokens, {of}, {kind}", "not native here"))
                    continue
                best = max(rate[f"{way} {kind}"] for way in PEERS)
                rows.append(row(f"tokens, {of}, {kind}", rate[f"ours {kind}"], best, "tokens/s"))
            mine = max((f"ours {kind}" for kind in args.dtypes), key=rate.__getitem__)
            theirs = max((f"{way} {kind}" for kind in args.dtypes for way in PEERS), key=rate.__getitem__)
            memory = {side: stage(args, "memory", size, length, side)["mb"] for side in (mine, theirs)}
            rows.append(row(f"tokens, {of}", rate[mine], rate[theirs], "tokens/s"))
            giga = made["flops_a_token"] / 1e9
            rows.append(row(f"arithmetic, {of}", rate[mine] * giga, rate[theirs] * giga, "GFLOP/s"))
            if args.peak:
                share = giga / (args.peak * 1000)
                rows.append(row(f"MFU, {of}", rate[mine] * share, rate[theirs] * share, "of peak"))
            rows.append(row(f"peak memory, {of}", memory[mine], memory[theirs], "MB", less=True))
            found = {"ours": mine, "peer": theirs, "rate": rate, "memory_mb": memory}
            details.append({"size": size, "length": length, **found, **made})
    if args.device == "cpu":
        rows += [untold(f"tokens, {size}, 4096", "no GPU") for size in ("350m", "760m")]
    return {
        "rows": rows,
        "details": details,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "dtypes": args.dtypes,
        "bfloat16": has_bfloat16(torch.device(args.device))[1],
        "flags": flags(),
        "torch": torch.__version__,
        "threads": args.threads,
        "clock": "cpu" if args.cpu else "wall",
        "heap": "kept" if args.heap else "as it comes",
    }


def untold(name: str, why: str) -> dict[str, Any]:
    """A line without a measurement."""
    return {"name": name, "ours": None, "peer": None, "ratio": None, "unit": "tokens/s", "why": why}


def row(name: str, ours: float, peer: float, unit: str, *, less: bool = False) -> dict[str, Any]:
    """A line of the table; `less` where the smaller is the better."""
    ratio = peer / max(ours, 1e-9) if less else ours / max(peer, 1e-9)
    return {"name": name, "ours": round(ours, 4), "peer": round(peer, 4), "ratio": round(ratio, 3), "unit": unit}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=lambda s: s.split(","), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--lengths", type=lambda s: [int(x) for x in s.split(",")], help="tokens a window")
    parser.add_argument("--windows", type=int, default=4, help="windows a step")
    parser.add_argument("--rounds", type=int, default=7, help="blocks of each side")
    parser.add_argument("--steps", type=int, default=2, help="steps a block")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--peak", type=float, help="the device's peak in TFLOP/s, for MFU")
    parser.add_argument("--cpu", action="store_true", help="count processor seconds, not the clock's; one thread only")
    parser.add_argument(
        "--dtypes", type=lambda s: s.split(","), help="of float32,bfloat16; left out, those that the device computes in"
    )
    parser.add_argument("--single", action="store_true", help="windows of one document each, nothing to pack")
    parser.add_argument("--heap", action="store_true", help="both sides: freed memory is kept by the process")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.cpu and (args.threads != 1 or args.device != "cpu"):
        parser.error("--cpu counts the seconds of all threads together; give --threads 1, and --device cpu")
    if args.dtypes and not set(args.dtypes) <= set(TYPES):
        parser.error(f"--dtypes {','.join(args.dtypes)}: must be of {', '.join(TYPES)}")
    torch.set_num_threads(args.threads)
    args.dtypes = args.dtypes or list(TYPES if has_bfloat16(torch.device(args.device))[0] else TYPES[:1])
    if args.stage:
        name, size, length, *rest = args.stage.split()
        print(json.dumps(globals()[f"stage_{name}"](args, size, int(length), *rest)))
        return
    args.sizes = args.sizes or (["350m", "760m"] if args.device == "cuda" else ["10m", "85m"])
    args.lengths = args.lengths or ([4096] if args.device == "cuda" else [512, 1024])
    report = measure(args)
    print(f"{'':<32}{'ours':>14}{'peer':>14}")
    for r in report["rows"]:
        if r["ratio"] is None:
            print(f"{r['name']:<32}{'not measured: ' + r['why']:>28}")
        else:
            print(f"{r['name']:<32}{r['ours']:>14}{r['peer']:>14} {r['unit']:<10} x{r['ratio']}")
    print(f"torch {report['torch']}, {report['device']}, {report['threads']} threads")
    print(f"processor: {', '.join(report['flags'])}; {report['bfloat16']}")
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
