"""Serving: `cm3 serve` against the engine alone, against `model.generate`, and against `transformers serve`.

    python benchmarks/serve.py --json              # all parts: 1, 8 and 32 clients, one client, and text
    python benchmarks/serve.py --quick             # the smallest size of each
    python benchmarks/serve.py --parts mixed --clients 8 --requests 400 --share 0.85

mixed     n clients ask for pictures, guided and not, for descriptions and answers, half of them in streams: each asks
          again as soon as it has its answer. The peer is the engine alone with the same requests, n at a time, laid out
          before the clock runs and drawn to no picture. Then the same requests come at random (Poisson), at `share` of
          the rate that the engine just reached, whether the server has answered or not: how long until first tokens,
          first rows and whole answers, from the moment at which each was to be sent.
overhead  one client asks for a picture, and `model.generate` makes the same in a process with the same settings, by
          turns: the difference of the medians. The server's answer is a PNG in JSON, which it has to encode.
text      8 clients ask for texts, of our server and of `transformers serve`, by turns, on the same Chameleon-shaped
          weights (benchmarks/chameleon.py), at temperature 0. Theirs computes in float32; where ours does, too, the
          texts are to be the same. transformers batches no requests for this model, also where it is asked to.

The server, the engine, and the clients, which are this process, have a process each; only one of the peers is asked at
a time. Every answer is looked at: its tokens are to be as many as the engine wrote. One thread for each engine.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import functools
import io
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything that is read was written here
os.environ.update({"OMP_NUM_THREADS": "1"})

import numpy as np
import torch

from cm3.bench.machine import about
from cm3.bench.serving import Client, Heard, Server, serving
from cm3.errors import Cm3Error, ConfigError
from cm3.picture import open_picture

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("mixed", "overhead", "text")
KINDS = ("guided", "told", "plain", "described", "streamed", "asked", "guided", "described whole")
"""Kinds of the mixed requests, in their order; told, described and streamed are streams."""
LONGEST = 32
"""Most tokens of a description or an answer."""


@dataclass(frozen=True)
class Ask:
    """A request. `options` are settings for both sides."""

    kind: str
    words: str
    seed: int
    options: dict[str, Any]
    picture: bytes | None = None

    @property
    def path(self) -> str:
        """Return the route that it is sent to."""
        return "/v1/chat/completions" if self.picture is not None else "/v1/images/generations"

    @property
    def body(self) -> bytes:
        """Return the body in the interface's form."""
        sent: dict[str, Any] = {"seed": self.seed, **self.options}
        if self.picture is None:
            sent |= {"prompt": self.words}
            sent |= {"stream": True, "partial_images": 3 if self.kind == "told" else 1} if self.streams else {}
        else:
            url = f"data:image/png;base64,{base64.b64encode(self.picture).decode()}"
            content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}]
            content += [{"type": "text", "text": self.words}] if self.words else []
            sent |= {"messages": [{"role": "user", "content": content}]}
            sent |= {"stream": True, "stream_options": {"include_usage": True}} if self.streams else {}
        return json.dumps(sent).encode()

    @property
    def streams(self) -> bool:
        """Tell whether its answer is a stream."""
        return self.kind in ("told", "described", "streamed")


@dataclass
class Told:
    """Times of an answer in seconds of `time.monotonic`: when it was to be sent, its first token or rows, its end."""

    ask: Ask
    due: float
    end: float
    first: float | None
    tokens: int


def mixed(n: int, side: int) -> list[Ask]:
    """Return so many requests of all kinds by turns; pictures are scenes of that side."""
    from cm3.scenes import describe, draw, random_scene

    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        kind, scene = KINDS[i % len(KINDS)], random_scene(rng)
        if kind in ("guided", "told", "plain", "streamed"):
            guided = kind in ("guided", "told")
            options = {"candidates": 1, "guidance": 1.5 + i % 4 if guided else 1.0}
            made.append(Ask(kind, describe(scene, rng=rng), i, options))
            continue
        file = io.BytesIO()
        draw(scene, side).save(file, "PNG")
        words = "how many objects are there?" if kind == "asked" else ""
        made.append(Ask(kind, words, i, {"candidates": 1, "max_tokens": LONGEST}, file.getvalue()))
    return made


# What runs in the process of the engine.


@functools.cache
def loaded(model: str) -> Any:
    """Return the model, loaded once in a process."""
    import cm3

    torch.set_num_threads(1)
    return cm3.load(model)


def laid_out(model: Any, ask: Ask) -> Any:
    """Return a request laid out for the engine, as the server does it."""
    from cm3.generate.tasks import CAPTION, QUESTION
    from cm3.tasks import find_task

    if ask.picture is None:
        return model.prepare([ask.words], seeds=[ask.seed], **ask.options)[0]
    fields = {"image": open_picture(ask.picture), **({"question": ask.words} if ask.words else {})}
    return model.prepare_task(find_task(QUESTION if ask.words else CAPTION), [fields], seeds=[ask.seed], **ask.options)[
        0
    ]


def engine_alone(name: str, asks: Sequence[Ask], n: int) -> dict[str, Any]:
    """Let the engine serve requests, `n` at a time; returns the tokens of each, and seconds, those around it too."""
    model = loaded(name)
    began = time.perf_counter()
    prepared = [laid_out(model, ask) for ask in asks]
    before = time.perf_counter() - began
    engine, left, running = model.new_engine(), deque(enumerate(prepared)), dict[int, int]()
    results: dict[int, Any] = {}
    began, cpu = time.perf_counter(), time.process_time()
    while left or running:
        while left and len(running) < n:
            place, one = left.popleft()
            running[engine.add(one.requests[0])] = place
        for event in engine.poll():
            if event.result is not None:
                results[running.pop(event.id)] = event.result
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    began = time.perf_counter()
    for place, result in results.items():
        made = model.finish(prepared[place], result)
        if asks[place].picture is None:
            made.image.save(io.BytesIO(), "PNG")
    after = time.perf_counter() - began
    tokens = [results[place].tokens.length for place in range(len(asks))]
    return {"tokens": tokens, "wall_s": wall, "cpu_s": cpu, "around_s": before + after}


def generated(name: str, ask: Ask) -> dict[str, float]:
    """Return the seconds that `model.generate` takes, and those that its picture takes to become a file."""
    model = loaded(name)
    began, cpu = time.perf_counter(), time.process_time()
    made = model.generate(ask.words, seed=ask.seed, **ask.options)
    wall, cpu, began = time.perf_counter() - began, time.process_time() - cpu, time.perf_counter()
    made.image.save(io.BytesIO(), "PNG")
    return {"wall_s": wall, "cpu_s": cpu, "file_s": time.perf_counter() - began}


# What runs here: the clients.


async def asked(client: Client, ask: Ask, due: float) -> Told:
    """Ask, and look at the answer. Raises `SystemExit` for one that is not what was asked for."""
    heard = await client.ask(ask.path, ask.body)
    end = time.monotonic()
    if heard.status != 200:
        raise SystemExit(f"{ask.kind}: {heard.status}: {heard.data[:500].decode(errors='replace')}")
    first, usage = (None, heard.json["usage"]) if not ask.streams else told_by(heard)
    return Told(ask, due, end, first, usage.get("output_tokens", usage.get("completion_tokens")))


def told_by(heard: Heard) -> tuple[float, dict[str, Any]]:
    """Return when the first words or rows of a stream came, and its count of tokens."""
    firsts = [at for at, event in heard.events if event.get("b64_json") or any(map(_words, event.get("choices", ())))]
    usage = next((event["usage"] for _, event in reversed(heard.events) if event.get("usage")), None)
    if not firsts or usage is None:
        raise SystemExit(f"a stream without an answer: {heard.data[-500:].decode(errors='replace')}")
    return firsts[0], usage


def _words(choice: dict[str, Any]) -> bool:
    return bool(choice["delta"].get("content")) or choice["finish_reason"] is not None


async def closed(url: str, asks: Sequence[Ask], n: int) -> list[Told]:
    """Let `n` clients ask, each again as soon as it has its answer."""
    left, told = deque(asks), list[Told]()

    async def one() -> None:
        client = Client(url)
        while left:
            told.append(await asked(client, left.popleft(), time.monotonic()))
        client.close()

    await asyncio.gather(*(one() for _ in range(n)))
    return told


async def opened(url: str, asks: Sequence[Ask], rate: float) -> list[Told]:
    """Send requests at random moments, `rate` a second, whether others are answered or not."""
    chance, idle, at = random.Random(0), deque[Client](), time.monotonic()

    async def one(ask: Ask, due: float) -> Told:
        await asyncio.sleep(due - time.monotonic())
        client = idle.pop() if idle else Client(url)
        told = await asked(client, ask, due)
        idle.append(client)
        return told

    tasks = []
    for ask in asks:
        tasks.append(asyncio.ensure_future(one(ask, at)))
        at += chance.expovariate(rate)
    told = await asyncio.gather(*tasks)
    for client in idle:
        client.close()
    return list(told)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds, and how many there were."""
    ordered = sorted(seconds)
    p50, p99 = (ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] for share in (0.5, 0.99))
    return {"p50_ms": round(1e3 * p50, 1), "p99_ms": round(1e3 * p99, 1), "n": len(ordered)}


def latencies(told: Sequence[Told]) -> dict[str, Any]:
    """Return how long it took to first tokens, to first rows, and to the ends."""
    firsts = [(one.ask.picture is not None, one.first - one.due) for one in told if one.first is not None]
    return {
        "first_token": spread([s for words, s in firsts if words]),
        "first_rows": spread([s for words, s in firsts if not words]),
        "whole": spread([one.end - one.due for one in told]),
    }


def measure_mixed(args: argparse.Namespace, server: Server, engine: ProcessPoolExecutor) -> dict[str, Any]:
    """Every number of clients, saturated and open, against the engine with as many requests at a time."""
    asks = mixed(args.requests, args.side)
    rows, every = [], dict[str, Any]()
    for n in args.clients:
        ratios, spent, kept = [], list[dict[str, Any]](), list[Told]()
        for _ in range(args.rounds):
            own = engine.submit(engine_alone, args.model, asks, n).result()
            cpu, began = server.cpu_s, time.monotonic()
            told = asyncio.run(closed(server.url, asks, n))
            wall, cpu = time.monotonic() - began, None if cpu is None else (server.cpu_s or 0) - cpu
            if wrong := [one.ask for one in told if one.tokens != own["tokens"][one.ask.seed]]:
                raise SystemExit(f"{wrong[0].kind}, seed {wrong[0].seed}: other tokens than the engine alone wrote")
            rate = args.share * len(asks) / own["wall_s"]
            began = time.monotonic()
            kept += asyncio.run(opened(server.url, asks, rate))
            waited = time.monotonic() - began
            spent.append({"engine": {k: v for k, v in own.items() if k != "tokens"}, "wall_s": wall, "cpu_s": cpu})
            spent[-1] |= {"tokens": sum(own["tokens"]), "asked_a_s": rate, "answered_a_s": len(asks) / waited}
            spent[-1] |= {"saturated": latencies(told)}
            ratios.append(own["wall_s"] / wall)
        middle = spent[sorted(range(len(ratios)), key=ratios.__getitem__)[len(ratios) // 2]]
        tokens = middle["tokens"]
        rates = tokens / middle["wall_s"], tokens / middle["engine"]["wall_s"]
        ratio = round(statistics.median(ratios), 3)
        rows.append(row(f"{n} clients, against the engine alone", *rates, ratio, "tokens/s"))
        cpu = [one["engine"]["cpu_s"] / one["cpu_s"] for one in spent if one["cpu_s"]]
        whole = [(one["engine"]["wall_s"] + one["engine"]["around_s"]) / one["wall_s"] for one in spent]
        every[str(n)] = {"rounds": spent, "open": latencies(kept), "cpu_ratio": round(statistics.median(cpu), 3)}
        every[str(n)]["with_files_ratio"] = round(statistics.median(whole), 3)
    return {"rows": rows, "mixed": every}


def measure_overhead(args: argparse.Namespace, server: Server, engine: ProcessPoolExecutor) -> dict[str, Any]:
    """One client against `model.generate`, by turns."""
    asks = [ask for ask in mixed(args.requests, args.side) if ask.kind in ("guided", "plain")][: args.pairs]

    async def by_turns() -> list[dict[str, Any]]:
        client, spent = Client(server.url), []
        for ask in asks:
            own = engine.submit(generated, args.model, ask).result()
            cpu, began = server.cpu_s, time.monotonic()
            told = await asked(client, ask, began)
            took = None if cpu is None else (server.cpu_s or 0) - cpu
            spent.append({"wall_s": told.end - began, "cpu_s": took, "own": own})
        client.close()
        return spent

    spent = asyncio.run(by_turns())[1:]  # the first opens what is opened once
    ours = 1e3 * statistics.median(one["wall_s"] for one in spent)
    theirs = 1e3 * statistics.median(one["own"]["wall_s"] for one in spent)
    over = 1e3 * statistics.median(one["wall_s"] - one["own"]["wall_s"] for one in spent)
    file = 1e3 * statistics.median(one["own"]["file_s"] for one in spent)
    cpu = 1e3 * statistics.fmean((one["cpu_s"] or 0) - one["own"]["cpu_s"] for one in spent)
    made = {"rows": [row("one request, against model.generate", ours, theirs, round(theirs / ours, 3), "ms")]}
    return made | {"overhead": {"ms": round(over, 2), "cpu_ms": round(cpu, 2), "png_ms": round(file, 2)}}


def measure_text(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """8 clients that ask for texts, of `transformers serve` and of ours, by turns."""
    from chameleon import write

    from cm3.convert.convert import convert
    from cm3.tokens.chameleon import TURN

    write(args.shape, args.words + args.new, 4, work / "drawn")
    convert(work / "drawn", work / "hf", "chameleon-hf")
    chance = random.Random(0)
    prompts = ["".join(chance.choices("abcdefghij klmnop", k=args.words)).strip() for _ in range(args.texts)]
    theirs = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    theirs += [str(work / "hf"), "--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--dtype", "float32"]
    theirs += ["--log-level", "warning"]
    ends = {"temperature": 0.0, "max_tokens": args.new}
    forms: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
        "theirs": ("/v1/completions", lambda words: {"model": str(work / "hf"), "prompt": words + TURN, **ends}),
        "ours": (
            "/v1/chat/completions",
            lambda words: {"messages": [{"role": "user", "content": words}], "candidates": 1, **ends},
        ),
    }

    async def ask_all(url: str, side: str) -> tuple[float, int, dict[str, str]]:
        path, form = forms[side]
        left, texts, tokens = deque(prompts), dict[str, str](), 0

        async def one() -> None:
            nonlocal tokens
            client = Client(url)
            while left:
                words = left.popleft()
                heard = await client.ask(path, json.dumps(form(words)).encode())
                if heard.status != 200:
                    raise SystemExit(f"{side}: {heard.status}: {heard.data[:500].decode(errors='replace')}")
                choice = heard.json["choices"][0]
                texts[words] = choice["text"] if side == "theirs" else choice["message"]["content"]
                tokens += heard.json["usage"]["completion_tokens"]
            client.close()

        began = time.monotonic()
        await asyncio.gather(*(one() for _ in range(8)))
        return time.monotonic() - began, tokens, texts

    rows, every = [], dict[str, Any]()
    for dtype in args.dtypes:
        took: dict[str, list[tuple[float, int, dict[str, str]]]] = {"ours": [], "theirs": []}
        ours = own_command(work / "drawn", "--dtype", dtype)
        with serving(ours, environment()) as mine, serving(theirs, environment()) as peer:
            urls = {"ours": mine.url, "theirs": peer.url}
            for turn in range(args.rounds + 1):  # the first opens what is opened once
                for side in [*urls][:: -1 if turn % 2 else 1]:
                    made = asyncio.run(ask_all(urls[side], side))
                    took[side] += [made] if turn else []
        same = statistics.fmean(alike(took["ours"][0][2][p], took["theirs"][0][2][p]) for p in prompts)
        if dtype == "float32" and same <= 0.5:  # a near tie here and there falls the other way, in other products
            raise SystemExit(f"only {same:.0%} of the texts are the same as transformers': nothing is compared")
        # Ours counts the end of a text too, which theirs does not write.
        tokens = min(n for one in took.values() for _, n, _ in one)
        rates = {side: tokens / statistics.median(s for s, _, _ in one) for side, one in took.items()}
        ratio = statistics.median(b[0] / a[0] for a, b in zip(took["ours"], took["theirs"], strict=True))
        name = f"{args.shape}, 8 clients, text, against transformers serve; {dtype}"
        rows.append(row(name, rates["ours"], rates["theirs"], round(ratio, 3), "tokens/s"))
        every[dtype] = {
            "same_texts": same,
            "tokens": tokens,
            "seconds": {s: [t[0] for t in o] for s, o in took.items()},
        }
    return {"rows": rows, "text": every}


def alike(a: str, b: str) -> bool:
    """Tell whether two texts are the same as far as the shorter one goes: transformers does not end at a turn's end."""
    a, b = a.strip(), b.strip()
    return a.startswith(b) or b.startswith(a)


def row(name: str, ours: float, peer: float, ratio: float, unit: str) -> dict[str, Any]:
    """Return a row of the table."""
    return {"name": name, "ours": round(ours, 2), "peer": round(peer, 2), "ratio": ratio, "unit": unit}


def own_command(model: str | Path, *more: str) -> list[str]:
    """Return the command that serves a model with one thread on a free port."""
    return [sys.executable, "-m", "cm3", "serve", str(model), "--port", "0", "--threads", "1", "--queue", "1000", *more]


def environment() -> dict[str, str]:
    """Return the environment of a server: this checkout, and no line kept back."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the rows of all parts, and what is told with them. Raises `ConfigError` for a server that does not run."""
    report: dict[str, Any] = {"rows": [], "requests": args.requests, "share": args.share, "rounds": args.rounds}
    parts = {"mixed": measure_mixed, "overhead": measure_overhead}
    if wanted := [parts[name] for name in args.parts if name in parts]:
        with (
            ProcessPoolExecutor(1, get_context("spawn")) as engine,
            serving(own_command(args.model), environment()) as server,
        ):
            args.side = engine.submit(side_of, args.model).result()
            for part in wanted:
                made = part(args, server, engine)
                report["rows"] += made.pop("rows")
                report |= made
    if "text" in args.parts:
        with tempfile.TemporaryDirectory(prefix="cm3-") as folder:
            made = measure_text(args, Path(folder))
        report["rows"] += made.pop("rows")
        report |= made
    return report | about(torch.device("cpu")) | {"clock": "wall"}


def side_of(model: str) -> int:
    """Return the side of a model's pictures."""
    side: int = loaded(model).image_size
    return side


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", default="scenes", help="the model of mixed and overhead: a name, or a folder")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=192, help="mixed requests of each round")
    parser.add_argument("--share", type=float, default=0.7, help="of the engine's own rate, at which requests come")
    parser.add_argument("--pairs", type=int, default=40, help="requests of the part overhead")
    parser.add_argument("--shape", default="85m", help="the weights of the part text: of 10m,85m,350m,760m,7b")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "int8"], help="number types of ours in that part")
    parser.add_argument("--words", type=int, default=40, help="characters of each prompt of the part text")
    parser.add_argument("--new", type=int, default=64, help="tokens of each text")
    parser.add_argument("--texts", type=int, default=16, help="texts of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two clients, 8 requests, the smallest shape, one round")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    args = parser.parse_args(argv)
    if args.quick:
        args.clients, args.requests, args.pairs, args.rounds = [2], len(KINDS), 3, 1
        args.shape, args.texts, args.new, args.dtypes = "test", 8, 16, ["float32"]
    if min(args.requests, args.rounds, args.texts, args.new, *args.clients) < 1 or not 0 < args.share:
        parser.error("--clients, --requests, --rounds, --texts and --new must be at least 1, --share above 0")
    if args.pairs < 2 or args.words < 4:
        parser.error("--pairs must be at least 2, --words at least 4")
    try:
        report = measure(args)
    except (Cm3Error, ConfigError) as error:
        parser.error(str(error))
    for one in report["rows"]:
        print(f"{one['name']:<56}{one['ours']:>10.1f}{one['peer']:>10.1f}  x{one['ratio']:.3f}  {one['unit']}")
    for n, found in report.get("mixed", {}).items():
        print(f"{n} clients, by seconds of the processor: x{found['cpu_ratio']}, pictures and all; against the engine")
        print(f"{n} clients, with laying out before it and making files after it: x{found['with_files_ratio']}")
        for what, one in found["open"].items():
            print(f"{n} clients, open, {what}: p50 {one['p50_ms']} ms, p99 {one['p99_ms']} ms")
    if "overhead" in report:
        print(
            "overhead of a request: {ms} ms, {cpu_ms} of the processor; the PNG takes {png_ms}".format_map(
                report["overhead"]
            )
        )
    for dtype, one in report.get("text", {}).items():
        print(f"{dtype}: texts that are the same as transformers': {one['same_texts']:.0%}")
    print(f"{report['device']} ({', '.join(report['flags'])}), torch {report['torch']}, load {report['load']}")
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
