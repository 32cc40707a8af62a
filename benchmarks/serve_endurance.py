"""Endurance of `cm3 serve`: minutes of mixed requests among clients that leave, break off and send nonsense.

    python benchmarks/serve_endurance.py --minutes 30 --json
    python benchmarks/serve_endurance.py --minutes 0.1 --clients 4

Each client asks again as soon as it is done: three times of five for something good (benchmarks/serve.py, mixed), else
it leaves an answer half read or at a random moment, breaks off in the middle of a request, or sends a body that is
wrong in one of many ways. At the end there must be

    no good request that failed, or has other tokens than the engine alone writes
    pictures as `model.generate` makes them with the same seed, pixel for pixel; a few may differ, where a product of
        another batch is rounded the other way
    no error that is not an object of the interface, with the status of a client's fault
    no work, no stream and no block of the cache in use
    after five minutes and more: as much memory as after the first fifth of the time, within a twentieth

and the server must still serve. The exit status is 1 where it is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from serve import KINDS, Ask, engine_alone, environment, loaded, mixed, own_command, side_of, told_by

from cm3.bench.machine import about
from cm3.bench.serving import Client, Heard, Server, serving
from cm3.errors import Cm3Error
from cm3.picture import open_picture

ACTIONS = {"good": 60, "leaves": 15, "breaks off": 10, "nonsense": 15}
"""What a client does next, and how often of a hundred times."""
ASKS = 8 * len(KINDS)
"""Different good requests: each comes many times, in ever other company."""
GONE = (ConnectionError, asyncio.IncompleteReadError, TimeoutError)
PICTURES, CHAT, EDITS = "/v1/images/generations", "/v1/chat/completions", "/v1/images/edits"


def nonsense(chance: random.Random) -> tuple[str, bytes, dict[str, str]]:
    """Return a path, a body and headers of a request that has one thing wrong."""
    whole = {"prompt": "a red circle", "seed": 1}
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    bodies: list[tuple[str, Any]] = [
        (PICTURES, {**whole, "colour": "red"}),
        (PICTURES, {**whole, "n": -1}),
        (PICTURES, {**whole, "size": "-1x9"}),
        (PICTURES, {**whole, "guidance": "much"}),
        (PICTURES, {**whole, "top_p": 7}),
        (PICTURES, {**whole, "seed": 2**70}),
        (PICTURES, {**whole, "prompt": " "}),
        (PICTURES, {**whole, "prompt": "red " * 5000}),
        (PICTURES, {**whole, "model": "parrot"}),
        (PICTURES, {**whole, "partial_images": 2}),
        (PICTURES, [whole]),
        (CHAT, {"messages": []}),
        (CHAT, {"messages": [{"role": "king", "content": "hello"}]}),
        (CHAT, {"messages": [{"role": "user", "content": [part]}]}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "sound"}]}]}),
        (EDITS, {"prompt": "blue", "images": [{"image_url": "file:///etc/hostname"}]}),
        (EDITS, {"prompt": "blue", "images": [{"image_url": "http://127.0.0.1:1/x.png"}]}),
        ("/v1/models/../../etc/passwd", None),
        ("/v1/nowhere", whole),
    ]
    kind = chance.randrange(len(bodies) + 5)
    if kind < len(bodies):
        path, body = bodies[kind]
        return path, json.dumps(body).encode(), {}
    data = json.dumps(whole).encode()
    return (
        (PICTURES, data[: chance.randrange(len(data))], {}),
        (PICTURES, chance.randbytes(chance.randrange(1, 4096)), {}),
        (PICTURES, data, {"content-type": "text/plain"}),
        (EDITS, data, {"content-type": "multipart/form-data"}),
        (EDITS, chance.randbytes(200), {"content-type": "multipart/form-data; boundary=x"}),
    )[kind - len(bodies)]


@dataclass
class Seen:
    """What came of all that was asked. `wrong`: lines about what should not have been, by what it was."""

    tried: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in (*ACTIONS, "pictures", "end")})
    pictures: dict[int, bytes] = field(default_factory=dict)
    """The last picture of each seed, as its file."""
    memory: list[tuple[float, int]] = field(default_factory=list)

    def bad(self, what: str, line: str) -> None:
        """Note something wrong."""
        self.wrong[what].append(line[:300])


async def good(client: Client, ask: Ask, tokens: int, seen: Seen) -> None:
    """Ask for something good, and look at the answer."""
    try:
        heard = await client.ask(ask.path, ask.body)
    except GONE as error:
        seen.bad("good", f"{ask.kind}, seed {ask.seed}: {error!r}")
        return
    if heard.status != 200:
        seen.bad("good", f"{ask.kind}, seed {ask.seed}: {heard.status}: {heard.data.decode(errors='replace')}")
        return
    usage = told_by(heard)[1] if ask.streams else heard.json["usage"]
    found = usage.get("output_tokens", usage.get("completion_tokens"))
    if found != tokens and ask.picture is None:
        seen.bad("good", f"{ask.kind}, seed {ask.seed}: {found} tokens, and not {tokens}")
    if ask.picture is None:
        last = heard.events[-1][1] if ask.streams else heard.json["data"][0]
        seen.pictures[ask.seed] = base64.b64decode(last["b64_json"])


async def leaves(client: Client, ask: Ask, chance: random.Random, seen: Seen) -> None:
    """Ask, and leave before the end: after some pieces, or after some time."""
    pieces, seconds = chance.randrange(4), chance.expovariate(2.0)
    with contextlib.suppress(*GONE):
        async with asyncio.timeout(seconds), contextlib.aclosing(client.hear(ask.path, ask.body)) as answer:
            async for heard in answer:
                if heard.status >= 500:
                    seen.bad("leaves", f"{ask.kind}: {heard.status}")
                if len(heard.pieces) >= pieces:
                    break
    client.close()


async def breaks_off(client: Client, ask: Ask, chance: random.Random) -> None:
    """Send a part of a request, of its head or its body, and go."""
    head = f"POST {ask.path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    whole = f"{head}content-length: {len(ask.body)}\r\n\r\n".encode() + ask.body
    with contextlib.suppress(*GONE):
        await client.send(whole[: chance.randrange(1, len(whole))])
    client.close()


async def sends_nonsense(client: Client, chance: random.Random, seen: Seen) -> None:
    """Send something wrong, and look at the error."""
    path, body, headers = nonsense(chance)
    try:
        heard = await client.ask(path, body, headers)
    except GONE as error:
        seen.bad("nonsense", f"{path} {body[:80]!r}: {error!r}")
        return
    if not is_error(heard):
        seen.bad("nonsense", f"{path} {body[:80]!r}: {heard.status}: {heard.data.decode(errors='replace')}")


def is_error(heard: Heard) -> bool:
    """Tell whether an answer is an error of the client's, in the interface's own form."""
    try:
        error = heard.json["error"]
        return (
            400 <= heard.status < 500 and set(error) == {"message", "type", "param", "code"} and bool(error["message"])
        )
    except (ValueError, TypeError, KeyError):
        return False


async def drive(server: Server, asks: Sequence[Ask], tokens: Sequence[int], args: argparse.Namespace) -> Seen:
    """Let all clients ask until the time is over, then wait until nothing runs."""
    seen, end = Seen(), time.monotonic() + 60 * args.minutes

    async def one(number: int) -> None:
        chance, client = random.Random(f"{args.seed} {number}"), Client(server.url)
        while time.monotonic() < end:
            (action,) = chance.choices([*ACTIONS], [*ACTIONS.values()])
            ask = chance.choice(asks)
            seen.tried[action] += 1
            if action == "good":
                await good(client, ask, tokens[ask.seed], seen)
            elif action == "leaves":
                await leaves(client, ask, chance, seen)
            elif action == "breaks off":
                await breaks_off(client, ask, chance)
            else:
                await sends_nonsense(client, chance, seen)
        client.close()

    async def watch() -> None:
        began = time.monotonic()
        while time.monotonic() < end:
            if (memory := server.memory) is not None:
                seen.memory.append((round(time.monotonic() - began, 1), memory))
            await asyncio.sleep(min(10.0, 60 * args.minutes / 20))

    await asyncio.gather(watch(), *(one(number) for number in range(args.clients)))
    await rests(Client(server.url), seen)
    return seen


async def rests(client: Client, seen: Seen) -> None:
    """Wait until the server holds nothing any more; half a minute is long enough."""
    names = ("cm3_works", "cm3_queue_length", "cm3_streams", "cm3_cache_blocks_used")
    end, held = time.monotonic() + 30, {"?": 1.0}
    while any(held.values()) and time.monotonic() < end:
        text = (await client.ask("/metrics")).data.decode()
        values = {name: re.search(rf"^{name} (\S+)$", text, re.M) for name in names}
        held = {name: float(found[1]) if found else 1.0 for name, found in values.items()}
        await asyncio.sleep(0.1)
    client.close()
    seen.tried["end"] += 1
    if any(held.values()):
        seen.bad("end", f"still held: {held}")


def drawn_alone(name: str, ask: Ask) -> bytes:
    """Return the pixels of what `model.generate` makes of a request."""
    pixels: bytes = np.asarray(loaded(name).generate(ask.words, seed=ask.seed, **ask.options).image).tobytes()
    return pixels


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the rows, and what is told with them."""
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as engine,
        serving(own_command(args.model), environment()) as server,
    ):
        asks = mixed(ASKS, engine.submit(side_of, args.model).result())
        tokens = engine.submit(engine_alone, args.model, asks, 8).result()["tokens"]
        seen = asyncio.run(drive(server, asks, tokens, args))
        checked = [ask for ask in asks if ask.seed in seen.pictures][: args.checks]
        for ask in checked:
            seen.tried["pictures"] += 1
            pixels = np.asarray(open_picture(seen.pictures[ask.seed])).tobytes()
            if pixels != engine.submit(drawn_alone, args.model, ask).result():
                seen.bad("pictures", f"{ask.kind}, seed {ask.seed}: not the picture of model.generate")
    rows = [{"name": name, "tried": seen.tried[name], "wrong": len(lines)} for name, lines in seen.wrong.items()]
    # A picture may differ where rounding, which depends on what else is in the batch, meets a draw at its very edge.
    most = {"pictures": max(1, seen.tried["pictures"] // 10)}
    failed = [row["name"] for row in rows if row["wrong"] > most.get(row["name"], 0)]
    report = {"rows": rows, "minutes": args.minutes, "clients": args.clients, "memory": grown(seen.memory)}
    if args.minutes >= 5 and report["memory"] and report["memory"]["ratio"] > 1.05:
        failed.append("memory")
    lines = {name: lines[:20] for name, lines in seen.wrong.items() if lines}
    return {**report, "wrong": lines, "failed": failed, **about(torch.device("cpu")), "clock": "wall"}


def grown(memory: Sequence[tuple[float, int]]) -> dict[str, Any] | None:
    """Return the megabytes after the first fifth of the time and at the end, medians of a fifth each, and all."""
    if len(memory) < 5:
        return None
    fifth = len(memory) // 5
    first, last = (statistics.median(m for _, m in part) for part in (memory[fifth : 2 * fifth], memory[-fifth:]))
    every = [(at, round(m / 1e6, 1)) for at, m in memory]
    return {
        "first_mb": round(first / 1e6, 1),
        "last_mb": round(last / 1e6, 1),
        "ratio": round(last / first, 3),
        "mb": every,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--checks", type=int, default=20, help="pictures that are compared with model.generate's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="scenes", help="a name, or a bundle's folder")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    args = parser.parse_args(argv)
    if not args.minutes > 0 or args.clients < 1 or args.checks < 1:
        parser.error("--minutes must be above 0, --clients and --checks at least 1")
    try:
        report = measure(args)
    except Cm3Error as error:
        parser.error(str(error))
    for row in report["rows"]:
        print(f"{row['name']:<16}{row['tried']:>8} tried, {row['wrong']} wrong")
    for name, lines in report["wrong"].items():
        for line in lines:
            print(f"  {name}: {line}")
    if memory := report["memory"]:
        print(f"memory: {memory['first_mb']} MB after a fifth of the time, {memory['last_mb']} MB at the end")
    if args.json:
        print(json.dumps(report))
    sys.exit(1 if report["failed"] else 0)


if __name__ == "__main__":
    main()
