"""Bundles under damage, kills and replacement: how many of many trials were told, how many exactly right, none else.

    python benchmarks/reliability.py --json                          # the counts of docs/reliability.md; minutes
    python benchmarks/reliability.py --damages 50 --kills 5 --loads 50

    damaged bundles      one file of a bundle is flipped, cut, overwritten, exchanged or linked away, a value of its
                         config.json is made odd (with its checksum and without), or a weight is (likewise)
    damaged tokenizers   a tokenizer.json by itself, which no checksum guards
    kills                a process that saves over a bundle is ended at a moment drawn at random
    loads                a bundle is loaded while another process replaces it again and again
    canary               files beside the bundle, which damaged bundles name and link to: none is changed

`told` trials raised one line of `Cm3Error`; `right` ones loaded the very bundle. Whatever else happens is `wrong`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from cm3.errors import Cm3Error
from cm3.files import sha256
from cm3.generate import CM3Leon
from cm3.model import bundle as bundles
from cm3.model.decoder import Decoder, DecoderConfig
from cm3.model.folder import checksum
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.scenes import describe, random_scene
from cm3.tokens.text import TextTokenizer
from cm3.vocab import Vocab

SIZE = 32
ROOM = 4 << 30
"""Address space that a load may take beyond what the process has, in bytes: a number that is believed fails here."""
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 7, 255, 2**31, 2**63, 10**18, 10**299, 0.5, -1e300, 1e300, "", "8", "none",
    [], [0], [1, 2], [10**9] * 3, [[]], {}, {"a": 1}, "x" * 10_000,
)  # fmt: skip


def captions(seed: int, n: int) -> list[str]:
    """Sentences to train and try text tokenizers with."""
    rng = np.random.default_rng(seed)
    return [describe(random_scene(rng), rng) for _ in range(n)]


def make(folder: Path, seed: int) -> bundles.Bundle:
    """A small bundle with every part, each of which depends on `seed`."""
    torch.manual_seed(seed)
    work = folder / f"parts-{seed}"
    words = TextTokenizer.train(captions(seed, 100), 300)
    words.save(work / "tokenizer.json")
    for name in ("encoder/weights.safetensors", "memory/manifest.json", "memory/segment-0001/vectors.f32"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(f"{name} {seed}".encode() * 100)
    shape = VQGANConfig(
        factor=8, channels=8, multipliers=(1, 1), blocks=0, middle=False, attention=False, patch=4,
        z_channels=8, quantizer="fsq", codes=64, levels=(4, 4, 4), resample="shuffle",
    )  # fmt: skip
    vocab = Vocab(text=words.size, image=64, masks=16, reserved=0)
    decoder = Decoder(DecoderConfig(vocab.size, 32, 2, 2, 160, grid=(4, 4), positions="rope"))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.normal_()
    about = {"recipe": "reliability", "seed": seed, "tasks": ["edit"]}
    sampling = {"image": {"temperature": 0.5 + seed / 100}}
    made = bundles.Bundle(vocab, decoder, VQGAN(shape), SIZE, work / "tokenizer.json", sampling, about)
    made.encoder, made.memory = work / "encoder", work / "memory"
    return made


def print_of(bundle: bundles.Bundle) -> str:
    """A name for all that a bundle is, the files of its folders included."""
    hashed = hashlib.sha256(bundle.text_bytes())
    for module in (bundle.decoder, bundle.vqgan):
        hashed.update(repr(module.config).encode())
        for name, weight in sorted(module.state_dict().items()):
            hashed.update(name.encode() + weight.numpy().tobytes())
    hashed.update(repr((bundle.vocab, bundle.image_size, bundle.sampling, bundle.about)).encode())
    files = bundle.source.files if bundle.source else {}
    return hashed.hexdigest() + str(sorted((n, d) for n, d in files.items() if n not in bundles.FILES))


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, with its checksum."""
    return {str(p): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def flip(rng: random.Random, data: bytes) -> bytes:
    """One to eight bits turned."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def cut(rng: random.Random, data: bytes) -> bytes:
    """Less of it."""
    return data[: rng.randrange(len(data))]


def blank(rng: random.Random, data: bytes) -> bytes:
    """A stretch of zeros, as a disk leaves it that lost a block."""
    start = rng.randrange(len(data))
    length = min(rng.choice((1, 16, 512, 4096)), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def swap(rng: random.Random, data: bytes) -> bytes:
    """Two stretches of one length exchanged."""
    length = rng.choice((1, 4, 64))
    a, b = sorted(rng.sample(range(max(2, len(data) - length)), 2))
    length = min(length, b - a, len(data) - b)
    return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]


BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (flip, cut, blank, swap)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of JSON values."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from places(inner)


def sign(folder: Path, config: Any) -> None:
    """Write a config.json whose checksums are right, as an attacker would."""
    if isinstance(config, dict):
        if isinstance(config.get("files"), dict):
            files = config["files"]
            for name in [n for n in files if isinstance(n, str) and (folder / n).is_file()]:
                files[name] = sha256(folder / name)
        config["checksum"] = checksum(config)
    (folder / "config.json").write_text(json.dumps(config))


def damage(rng: random.Random, folder: Path, other: Path, canary: Path) -> str:
    """Damage a bundle in one way of many; returns which."""
    names = ["config.json", *bundles.FILES, "encoder/weights.safetensors", "memory/segment-0001/vectors.f32"]
    name = rng.choice(names)
    path, config = folder / name, json.loads((folder / "config.json").read_text())
    way = rng.choice(
        ("bytes", "bytes", "bytes", "exchange", "odd", "odd", "odd signed", "weight", "link", "name", "gone")
    )
    if way == "bytes":
        how = rng.choice(BYTES)
        path.write_bytes(how(rng, path.read_bytes()))
        return how.__name__
    if way == "exchange":
        path.write_bytes((other / name).read_bytes())
    elif way.startswith("odd"):
        container, key = rng.choice(list(places({k: v for k, v in config.items() if k != "checksum"} | config)))
        if container is not config and rng.random() < 0.2:
            del container[key]
        else:
            container[key] = rng.choice(ODD)
        if way == "odd signed":
            sign(folder, config)
        else:
            (folder / "config.json").write_text(json.dumps(config))
    elif way == "weight":
        path = folder / rng.choice(bundles.FILES[:2])
        weights = load_file(path)
        which = rng.choice(sorted(weights))
        value = weights.pop(which)
        how_weight = rng.choice(("nan", "inf", "shape", "kind", "gone", "more"))
        if how_weight in ("nan", "inf"):
            value.view(-1)[rng.randrange(value.numel())] = float(how_weight)
        elif how_weight == "shape":
            value = torch.cat([value, value])
        elif how_weight == "kind":
            value = value.to(torch.int32)
        if how_weight != "gone":
            weights[which] = value
        if how_weight == "more":
            weights["more"] = value.clone()
        save_file(weights, path)
        sign(folder, config)
    elif way == "link":
        path.unlink()
        path.symlink_to(rng.choice((canary / "secret.json", Path("../../canary/secret.json"), Path("/dev/zero"))))
        if name != "config.json":
            sign(folder, config)
    elif way == "name":
        odd = ("../canary/secret.json", str(canary / "secret.json"), "memory/../../canary/secret.json", "memory/x.pt",
               "encoder\\x.json", "memory/", "", "memory/\0.json", ".hidden", "memory/.hidden.json")  # fmt: skip
        config["files"][rng.choice(odd)] = sha256(canary / "secret.json")
        sign(folder, config)
    else:
        path.unlink()
    return way


def attempt(work: Callable[[], bool]) -> str:
    """Run a trial: "told", "right", or what is wrong."""
    try:
        return "right" if work() else "wrong: another"
    except Cm3Error as error:
        return "told" if "\n" not in str(error) else "wrong: many lines"
    except BaseException as error:
        return f"wrong: {type(error).__name__}: {error}"[:200]


def damaged_bundles(n: int, seed: int, work: Path) -> dict[str, Any]:
    """Load `n` damaged copies of a bundle as a model.

    Of a config.json that is odd and signed anew nobody can say that it is another, so right is a model that draws.
    """
    rng, canary = random.Random(seed), work / "canary"
    canary.mkdir()
    (canary / "secret.json").write_text('{"secret": 1}')
    for name, of in (("a", 1), ("b", 2)):
        bundles.save(make(work, of), work / name, torch.float32)
    right, before = print_of(bundles.load(work / "a")), tree(canary)
    counts, wrong, ways = Counter[str](), [], Counter[str]()
    for _ in range(n):
        copy = Path(shutil.copytree(work / "a", work / "copy"))
        way = damage(rng, copy, work / "b", canary)
        ways[way] += 1

        def load(copy: Path = copy, signed: bool = way == "odd signed") -> bool:
            got = bundles.load(copy)
            model = CM3Leon(got)
            if not signed:
                return print_of(got) == right
            return model.generate("a red circle", seed=0, max_tokens=8).image.size == (got.image_size,) * 2

        outcome = attempt(load)
        counts[outcome.partition(":")[0]] += 1
        if outcome.startswith("wrong"):
            wrong.append(f"{way}: {outcome}")
        shutil.rmtree(copy)
    row = {
        "name": "damaged bundles",
        "tried": n,
        **summary(counts),
        "ways": dict(sorted(ways.items())),
        "faults": wrong,
    }
    canary_row = {
        "name": "files outside, changed",
        "tried": n,
        "told": 0,
        "right": n,
        "wrong": int(tree(canary) != before),
    }
    return {"rows": [row, canary_row]}


def damaged_tokenizers(n: int, seed: int, work: Path) -> dict[str, Any]:
    """Load `n` damaged tokenizer.json files; a right one encodes as the undamaged one does."""
    rng, path, texts = random.Random(seed), work / "alone" / "tokenizer.json", captions(seed + 1, 60)
    made = TextTokenizer.train(captions(seed, 300), 400)
    made.save(path)
    data, right = path.read_bytes(), [made.encode(text) for text in texts]
    counts, wrong = Counter[str](), []
    for _ in range(n):
        how = rng.choice(BYTES)
        path.write_bytes(how(rng, data))

        def load() -> bool:
            got = TextTokenizer.load(path)
            return (
                got.size == made.size and [got.encode(t) for t in texts] == right and got.decode(right[0]) == texts[0]
            )

        outcome = attempt(load)
        counts[outcome.partition(":")[0]] += 1
        if outcome.startswith("wrong"):
            wrong.append(f"{how.__name__}: {outcome}")
    return {"rows": [{"name": "damaged text tokenizers", "tried": n, **summary(counts), "faults": wrong}]}


def child(work: Callable[[], None]) -> int:
    """Fork a process that does `work`; returns its id."""
    process = os.fork()
    if process == 0:
        try:
            work()
        finally:
            os._exit(1)
    return process


def killed_saves(n: int, seed: int, work: Path) -> dict[str, Any]:
    """End `n` processes that save over a bundle. Afterwards it is one of the two; the next save sweeps what is left."""
    rng, home = random.Random(seed), work / "killed"
    home.mkdir()
    made = [make(work, of) for of in (1, 2)]
    known, took = [], []
    for one in made:
        began = time.monotonic()
        bundles.save(one, home / "it", torch.float32)
        took.append(time.monotonic() - began)
        known.append(print_of(bundles.load(home / "it")))
    counts, wrong, left, at_work = Counter[str](), [], 0, 0
    for number in range(n):
        process = child(lambda one=made[number % 2]: bundles.save(one, home / "it", torch.float32))  # type: ignore[misc]
        time.sleep(rng.random() * 1.5 * max(took))
        os.kill(process, signal.SIGKILL)
        at_work += os.WIFSIGNALED(os.waitpid(process, 0)[1])
        left += len(list(home.glob(".*")))
        outcome = attempt(lambda: print_of(bundles.load(home / "it")) in known)
        outcome = outcome if outcome == "right" else f"wrong: {outcome}"
        counts[outcome.partition(":")[0]] += 1
        if outcome != "right":
            wrong.append(outcome)
    bundles.save(made[0], home / "it", torch.float32)
    beside = [p.name for p in home.iterdir() if p.name != "it"]
    if beside:
        counts["wrong"] += 1
        wrong.append(f"left after the last save: {beside}")
    row = {"name": "kills while a bundle is saved", "tried": n, **summary(counts), "faults": wrong}
    return {"rows": [row], "killed_at_work": at_work, "parts_left_until_the_next_save": left}


def loads_while_replaced(n: int, seed: int, work: Path) -> dict[str, Any]:
    """Load a bundle `n` times while a process replaces it without pause."""
    home = work / "replaced"
    home.mkdir()
    made = [make(work, of) for of in (1, 2)]
    known = []
    for one in made:
        bundles.save(one, home / "it", torch.float32)
        known.append(print_of(bundles.load(home / "it")))

    def replace() -> None:
        while True:
            for one in made:
                bundles.save(one, home / "it", torch.float32)

    counts, wrong, seen = Counter[str](), [], Counter[int]()
    process = child(replace)
    try:
        for _ in range(n):

            def load() -> bool:
                found = print_of(bundles.load(home / "it"))
                seen[known.index(found) if found in known else -1] += 1
                return found in known

            outcome = attempt(load)
            outcome = outcome if outcome in ("right", "wrong") else f"wrong: {outcome}"
            counts[outcome.partition(":")[0]] += 1
            if outcome != "right":
                wrong.append(outcome)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    row = {"name": "loads while it is replaced", "tried": n, **summary(counts), "faults": wrong}
    return {"rows": [row], "of_the_one": seen[0], "of_the_other": seen[1]}


def summary(counts: Counter[str]) -> dict[str, int]:
    """The three outcomes."""
    return {name: counts[name] for name in ("told", "right", "wrong")}


def main(argv: Sequence[str] | None = None) -> int:
    """Try and print; exits with 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=1000, help="damaged bundles, and as many text tokenizers")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--loads", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # processes are forked
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.RLIM_INFINITY))
    report: dict[str, Any] = {"seed": args.seed, "rows": []}
    stages = (
        (damaged_bundles, args.damages), (damaged_tokenizers, args.damages), (killed_saves, args.kills),
        (loads_while_replaced, args.loads),
    )  # fmt: skip
    for stage, n in stages:
        with tempfile.TemporaryDirectory() as scratch:
            made = stage(n, args.seed, Path(scratch))
        report["rows"] += made.pop("rows")
        report |= made
    for row in report["rows"]:
        outcomes = " ".join(f"{row[name]:>6} {name}" for name in ("told", "right", "wrong"))
        print(f"{row['name']:<32}{row['tried']:>7} tried {outcomes}")
        for fault in row.get("faults", [])[:20]:
            print(f"    {fault}")
    if args.json:
        print(json.dumps(report))
    return int(any(row["wrong"] for row in report["rows"]))


if __name__ == "__main__":
    sys.exit(main())
