"""From pictures to batches: images prepared, tokens packed, windows filled and megabytes read a second, in one run.

    pip install webdataset                             # the peer; without it that row is "not measured"
    python benchmarks/data.py --photos DIR --json      # 2,000 pictures, 100,000 documents; 0.5 GB of disk
    python benchmarks/data.py --threads 1 --cpu        # pictures are drawn where no folder is given
    python benchmarks/data.py --threads 1 --cpu --photos DIR --megapixels 1.5 --images 192 --only images

    images      `prepare` of web shards           webdataset and torch's DataLoader: the same shards, preprocessing,
                with the tokenizers of --model    tokenizers, batches of 16 and cores; codes and words to tar files
    tokens      masked and packed from a store    what the paper's 350M takes on one H200
    windows     share that is not padding         the most that whole documents allow
    reading     documents at random, with cells   its files from end to end, by plain reads

Rates are of the median block; blocks of the two sides alternate, so that whatever disturbs the machine disturbs both,
and the ratio of images is that of the median pair. Before it counts both must give the same codes; with --megapixels,
collages of the photographs at that size, ours decodes JPEGs at a part of their size, and its pictures must be within
40 dB of the peer's instead. Ours is from nothing
to a finished store: duplicates, checksums and fsync are in it. Both load the tokenizers within each block. --threads N
is a budget of N cores, which both are held to (Linux): ours has N worker processes, or none for 1; the peer is measured
with N - 1 and N loader processes, N threads for its tokenizer, and the quicker counts. With --cpu rates are by
processor seconds, which other work on the machine disturbs little; for one thread only.

The store is drawn: 1,024 codes and a caption of 10 to 26 tokens by chance, 1,045 on average, in the paper's vocabulary,
written by the functions that write a prepared one. What an H200 takes is arithmetic and was not measured: 989 TFLOP/s
(its data sheet's dense bfloat16) x 45% / FLOP a token (`cm3.model.sizes.flops_per_token` at 1,045, as attention is
blocked at documents). Packing has the CM3 masks of training, three tokens a span: so a share of windows can be a
little over the bound, which counts documents of exactly 1,042 tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch.utils.data import DataLoader

from cm3.data.load import Loader
from cm3.data.neighbours import Named, Neighbours
from cm3.data.prepare import prepare
from cm3.data.store_source import Retrieval, StoreSource
from cm3.files import write
from cm3.model.bundle import find
from cm3.model.sizes import flops_per_token, size
from cm3.picture import open_picture, square_of_file
from cm3.sequence.before import AugmentLaw
from cm3.sequence.mask import MaskLaw
from cm3.store.manifest import FORMAT, KIND
from cm3.store.record import Record
from cm3.store.shard import Batch, Shape, page_bytes, write_shard
from cm3.store.store import Store
from cm3.store.write import finish
from cm3.tokens.image import preprocess
from cm3.tokens.on_disk import load_tokenizers, text_fingerprint
from cm3.vocab import Vocab

CLOCK = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter
WORDS = "a red kite over the grey harbour while two people walk home along the wet road in the evening".split()
BATCH, BATCH_TOKENS, CODES, CONTEXT, TYPICAL, PURE = 16, 65_536, 1024, 4096, 1045, 1042
PEAK, MFU = 989e12, 0.45
SEED = 20


def pictures(folder: Path | None, count: int, megapixels: float = 0.0) -> Iterator[bytes]:
    """JPEG files: a folder's, again from the first where they are too few; drawn ones of 640 x 480 without a folder.

    With `megapixels` each is a collage of them, four wide and four high, at quality 85.
    """
    if megapixels:
        wide = round((megapixels * 1e6 * 4 / 3) ** 0.5 / 16)
        size = 4 * wide, 3 * wide
        some = itertools.cycle([open_picture(data).convert("RGB") for data in pictures(folder, 16 * count)])
        for _ in range(count):
            made, file = PIL.Image.new("RGB", (4 * size[0], 4 * size[1])), io.BytesIO()
            for at in itertools.product(range(4), range(4)):
                made.paste(next(some).resize(size, PIL.Image.Resampling.LANCZOS), (at[0] * size[0], at[1] * size[1]))
            made.save(file, "JPEG", quality=85)
            yield file.getvalue()
    elif folder is not None:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        if not found:
            raise SystemExit(f"{folder}: holds no .jpg")
        for i in range(count):
            turn, at = divmod(i, len(found))
            # Bytes after the end of a JPEG are ignored; they make it another file, which is decoded again.
            yield found[at].read_bytes() + (str(turn).encode() if turn else b"")
    else:
        rng = np.random.default_rng(SEED)
        y, x = np.mgrid[0:480, 0:640] / 640
        for _ in range(count):
            slopes = rng.uniform(-150, 150, (3, 2))
            coarse = PIL.Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
            shade = np.stack([a * x + b * y for a, b in slopes], axis=-1) + rng.normal(0, 6, (480, 640, 3))
            file = io.BytesIO()
            drawn = PIL.Image.fromarray((np.asarray(coarse) + shade).clip(0, 255).astype(np.uint8))
            drawn.save(file, "JPEG", quality=90)
            yield file.getvalue()


def write_shards(folder: Path, files: Sequence[bytes], tars: int) -> None:
    """Web shards of these pictures with captions, in whole batches each as far as it goes."""
    folder.mkdir(parents=True)
    each = -(-len(files) // (tars * BATCH)) * BATCH
    rng = np.random.default_rng(SEED)
    for number in range(-(-len(files) // each)):
        with tarfile.open(folder / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(number * each, min((number + 1) * each, len(files))):
                words = " ".join(rng.choice(WORDS, 12)) + f" {i}"
                for suffix, data in (("jpg", files[i]), ("txt", words.encode())):
                    member = tarfile.TarInfo(f"{i:09d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def ours(shards: Path, out: Path, *, model: Path, threads: int) -> None:
    """Make a store of web shards."""
    prepare([f"webdataset:{shards}"], out, model, workers=0 if threads == 1 else threads)


def peer(shards: Path, out: Path, *, model: Path, threads: int, workers: int) -> None:
    """The same with webdataset and torch's DataLoader: loaders decode, scale, and tokenise words; codes come after."""
    import webdataset as wds

    out.mkdir(parents=True)
    codec = load_tokenizers(model).codec
    assert codec.image is not None
    scale = partial(preprocess, size=codec.image.size, fit=codec.image.fit)
    urls = sorted(str(path) for path in shards.glob("*.tar"))
    data = (
        wds.WebDataset(urls, shardshuffle=False)
        .decode("pil")
        .to_tuple("__key__", "jpg", "txt")
        .map_tuple(str, partial(as_tensor, scale), codec.text.encode)
        .batched(BATCH, collation_fn=collated)
    )
    torch.set_num_threads(threads)
    with wds.ShardWriter(str(out / "%05d.tar"), verbose=0) as writer, torch.no_grad():
        for keys, pixels, words in DataLoader(data, batch_size=None, num_workers=workers):
            pixels = pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1  # in the layout that ours has as well
            grids = codec.image.vqgan.encode(pixels).numpy().astype(np.int32)
            for key, codes, text in zip(keys, grids, words, strict=True):
                writer.write({"__key__": key, "npy": np.concatenate([text.numpy(), codes.reshape(-1)])})


def as_tensor(scale: Callable[[PIL.Image.Image], PIL.Image.Image], image: PIL.Image.Image) -> Any:
    """A picture scaled, uint8 (H, W, 3)."""
    return torch.from_numpy(np.array(scale(image)))


def collated(samples: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Keys, pictures (b, H, W, 3), and words of a batch."""
    keys, images, words = zip(*samples, strict=True)
    return keys, torch.stack(images), [np.array(some, np.int32) for some in words]


def codes_alike(store: Path, tars: Path) -> float:
    """The share of the codes of a store that the peer's tars have too. Both must have the same pictures."""
    import webdataset as wds

    samples = wds.WebDataset(sorted(map(str, tars.glob("*.tar"))), shardshuffle=False).decode()
    theirs = {sample["__key__"]: sample["npy"] for sample in samples}
    opened = Store.open(store)
    ids = [t.ids[opened.vocab.is_image(t.ids)] - opened.vocab.image_start for t in opened.tokens(range(len(opened)))]
    same = [(some == theirs.pop(opened.about(i).meta["key"])[-some.size :]).mean() for i, some in enumerate(ids)]
    return float(np.mean(same)) if not theirs else 0.0


def decibel(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures; 100 of equal ones."""
    return float(10 * np.log10(255**2 / max(np.square(a.astype(float) - b).mean(), 255**2 / 1e10)))


def stage_images(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Pictures to tokens, ours and the peer's by turns."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    model = find(args.model)
    files = list(pictures(args.photos, args.images, args.megapixels))
    write_shards(work / "warm", files[:BATCH], 1)
    write_shards(work / "shards", files, 2 * args.threads)
    ways: dict[str, Callable[[Path, Path], None]] = {"ours": partial(ours, model=model, threads=args.threads)}
    reason = None
    try:
        import webdataset  # noqa: F401

        for n in sorted({args.threads - 1, args.threads} if args.threads > 1 else {0}):
            ways[f"webdataset, {n} loaders"] = partial(peer, model=model, threads=args.threads, workers=n)
    except ImportError:
        reason = "webdataset is not installed: pip install webdataset"
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.blocks + 1):  # the first, of a few pictures, is not counted
        for name, way in ways.items():
            out, shards = work / f"{name}-{turn}", work / ("shards" if turn else "warm")
            began = CLOCK()
            way(shards, out)
            rates[name] += [args.images / (CLOCK() - began)] if turn else []
    image, some = load_tokenizers(model).codec.image, files[: 16 * BATCH]
    assert image is not None
    torch.set_num_threads(1)
    began = CLOCK()
    small = [square_of_file(data, image.size, image.fit) for data in some]
    decoded = len(some) / (CLOCK() - began)
    began = CLOCK()
    image.encode(small)
    tokenised = len(some) / (CLOCK() - began)
    best = max(list(ways)[1:], key=lambda name: statistics.median(rates[name]), default=None)
    exact = [image.preprocess(open_picture(data)) for data in some]
    worst = min(decibel(np.asarray(a), np.asarray(b)) for a, b in zip(small, exact, strict=True))
    if worst < 40:
        raise SystemExit(f"a picture is {worst:.1f} dB from a full decode")
    if best and not args.megapixels:
        share = codes_alike(work / f"ours-{args.blocks}", work / f"{best}-{args.blocks}")
        if share < 0.99:
            raise SystemExit(f"only {share:.1%} of the codes are the same on both sides")
    rate = statistics.median(rates["ours"])
    return {
        "rates": {name: [round(r, 1) for r in some] for name, some in rates.items()},
        "images_s": rate,
        "peer_images_s": statistics.median(rates[best]) if best else None,
        "ratio": statistics.median(a / b for a, b in zip(rates["ours"], rates[best], strict=True)) if best else None,
        "peer": best or reason,
        "mb_s": rate * sum(map(len, files)) / len(files) / 1e6,
        "decode_and_scale_s": decoded,
        "decibel": worst,
        "tokenizer_s": tokenised,
        "tokenizer_share": rate / tokenised / args.threads,
    }


def draw_store(folder: Path, lengths: np.ndarray, codes: int) -> None:
    """A store of documents by chance: `lengths` text tokens each, then, where `codes` is over 0, a picture."""
    vocab, rng, reports = Vocab(), np.random.default_rng(SEED), []
    (folder / "shards").mkdir(parents=True)
    shutil.copyfile(find("scenes") / "tokenizer.json", folder / "tokenizer.json")  # any: nothing is spelt here
    plan = {
        "format": FORMAT, "kind": KIND, "sources": ["drawn"], "unit": 5000, "vocab": dataclasses.asdict(vocab),
        "text_tokenizer": text_fingerprint(folder / "tokenizer.json"), "encoder": None,
        "width": None, "words": False, "pictures": False,
        "image_tokenizer": {"fingerprint": "drawn", "size": 256, "fit": "crop"},
    }  # fmt: skip
    write(folder / "plan.json", page_bytes(plan))
    shape = Shape(vocab.size, None, words=False, pictures=False)
    for number, start in enumerate(range(0, len(lengths), 5000)):
        some = lengths[start : start + 5000].tolist()
        tokens = []
        for n in some:
            text = rng.integers(vocab.text_start, vocab.image_start, n)
            picture = [[vocab.brk], rng.integers(vocab.image_start, vocab.size, codes)] if codes else []
            tokens.append(np.concatenate([[vocab.eos], text, *picture, [vocab.eos]]).astype(np.int32))
        records = [Record(str(start + i), "drawn", {}) for i in range(len(some))]
        reports.append(write_shard(folder, number, Batch(records, tokens, [codes] * len(some)), shape, {}))
    finish(folder, plan, shape, reports, {}, {}, 10)


def drawn_neighbours(store: Store) -> Neighbours:
    """A table that gives each document of a store four others by chance."""
    n, named = len(store), vars(Named.of(store))
    rows = torch.from_numpy(np.random.default_rng(SEED).integers(0, n, (n, 4)))
    kinds = torch.tensor([[2, 3, 2, 3]], dtype=torch.uint8).expand(n, 4)  # whole, found by text and by image
    tensors = {"rows": rows, "scores": torch.full((n, 4), 0.5), "kinds": kinds}
    return Neighbours(Path("drawn"), {"encoder": "drawn", "stores": [named], "bank": named}, tensors)


def load(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second from a store, and how full windows are."""
    rng, n = np.random.default_rng(SEED), args.documents
    few = min(n, 5000)
    draw_store(work / "typical", rng.integers(10, 27, n), CODES)
    draw_store(work / "pure", np.full(few, PURE - CODES - 3), CODES)
    # Texts from a line to a page, as many short ones as long ones.
    draw_store(work / "texts", np.exp(rng.uniform(np.log(16), np.log(1000), few)).astype(int), 0)
    typical, pure, texts = (Store.open(work / name) for name in ("typical", "pure", "texts"))
    retrieval = Retrieval(drawn_neighbours(pure), pure, AugmentLaw(), CONTEXT)
    sources = {
        "typical": StoreSource([typical], seed=1),
        "pure": StoreSource([pure], seed=1),
        "K=0..3": StoreSource([pure], seed=1, retrieval=retrieval),
        "with texts": StoreSource([pure, texts], (1, 2), seed=1),
    }
    loaders = {
        f"{name}, {length}": Loader(
            source, typical.vocab, MaskLaw(), windows=BATCH_TOKENS // length, length=length, seed=1, longest=CONTEXT
        )
        for name, source in sources.items()
        for length in (4096, 32768)
    }
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(args.blocks + 1):  # the first, in which stores are opened, is not counted
        for name, loader in loaders.items():
            before, began = loader.counts.tokens, CLOCK()
            for _batch in itertools.islice(loader, args.batches if turn else 1):
                pass
            rates[name] += [(loader.counts.tokens - before) / (CLOCK() - began)] if turn else []
    return {
        "rates": {name: [round(r) for r in some] for name, some in rates.items()},
        "tokens_s": {name: statistics.median(some) for name, some in rates.items()},
        "fill": {name: 1 - loader.counts.padding for name, loader in loaders.items()},
        "mean_document": float(typical.lengths.mean()),
    }


def read(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Megabytes a second of the store that `load` drew: documents at random, and its files from end to end."""
    shards = sorted((work / "typical" / "shards").iterdir())
    numbers = np.random.default_rng(SEED).permutation(args.documents)[:20_000]

    def forget() -> None:
        for path in shards if hasattr(os, "posix_fadvise") else ():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def random() -> float:
        store = Store.open(work / "typical")
        began = CLOCK()
        got = [sum(t.length for t in store.tokens(numbers[i : i + 256])) for i in range(0, len(numbers), 256)]
        return 2e-6 * sum(got) / (CLOCK() - began)

    def bare() -> float:
        began = CLOCK()
        return sum(len(path.read_bytes()) for path in shards) / (CLOCK() - began) / 1e6

    found: dict[str, list[float]] = {}
    for _ in range(args.blocks):
        for name, way in (("random", random), ("bare", bare)):
            forget()
            found.setdefault(f"{name}, from disk", []).append(way())
            found.setdefault(f"{name}, from memory", []).append(way())
    return {name: statistics.median(some) for name, some in found.items()}


def stage_store(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What is measured of stores."""
    return {"load": load(work, args), "read": read(work, args)}


def h200() -> float:
    """Tokens a second that the paper's 350M takes on an H200, as the module says."""
    return PEAK * MFU / flops_per_token(size("350m", context=CONTEXT), TYPICAL)


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Every stage in a process of its own, then the table."""
    done = {}
    env = os.environ | {"BENCH_CLOCK": "cpu" if args.cpu else "wall", "OMP_NUM_THREADS": str(args.threads)}
    for stage in (args.only,) if args.only else ("images", "store"):
        sys.stderr.write(f"{stage} ...\n")
        command = [sys.executable, __file__, *args.given, "--stage", stage, "--work", str(work)]
        ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        done[stage] = json.loads(ran.stdout.splitlines()[-1])
    images = done["images"]
    rows = [row("images prepared", images["images_s"], images["peer_images_s"], "images/s")]
    rows[0]["ratio"] = images["ratio"] and round(images["ratio"], 3)
    if args.only:
        return {"rows": rows, "threads": args.threads, "images": args.images, "stages": done}
    packed, megabytes, takes = done["store"]["load"], done["store"]["read"], h200()
    rows += [row(f"tokens packed: {name}", rate, takes, "tokens/s") for name, rate in packed["tokens_s"].items()]
    for name, share in list(packed["fill"].items())[2:]:  # of documents of known lengths
        length = int(name.split(", ")[1])
        bound = 1.0 if name.startswith("with texts") else length // PURE * PURE / length
        rows.append(row(f"windows filled: {name}", share, bound, "share"))
    for place in ("from disk", "from memory"):
        rows.append(row(f"read at random, {place}", megabytes[f"random, {place}"], megabytes[f"bare, {place}"], "MB/s"))
    about = {"threads": args.threads, "clock": env["BENCH_CLOCK"], "model": args.model, "batch_tokens": BATCH_TOKENS}
    data = {"images": args.images, "photos": args.photos is not None, "documents": args.documents}
    arithmetic = {"peak_flops": PEAK, "mfu": MFU, "flops_a_token": PEAK * MFU / takes, "document": TYPICAL}
    return {"rows": rows, **about, **data, "h200": arithmetic, "stages": done}


def row(name: str, ours: float, peer: float | None, unit: str) -> dict[str, Any]:
    """A line of the table; a peer that is not there was not measured."""
    ratio = None if peer is None else round(ours / max(peer, 1e-9), 3)
    return {"name": name, "ours": round(ours, 4), "peer": peer and round(peer, 4), "ratio": ratio, "unit": unit}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of .jpg; without it, pictures are drawn")
    parser.add_argument("--images", type=int, default=2000, help="pictures to prepare in a block")
    parser.add_argument("--megapixels", type=float, default=0.0, help="collages of such a size in place of pictures")
    parser.add_argument("--only", choices=("images",), help="measure no store")
    parser.add_argument("--documents", type=int, default=100_000, help="documents of the store")
    parser.add_argument("--batches", type=int, default=200, help="batches of 65,536 tokens of a block")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--model", default="scenes", help="whose tokenizers")
    parser.add_argument("--threads", type=int, default=2, help="cores for each side")
    parser.add_argument("--cpu", action="store_true", help="count processor seconds, not the clock's; one thread only")
    parser.add_argument("--small", action="store_true", help="as little as shows that all of it runs")
    parser.add_argument("--work", type=Path, help="folder to work in, kept; without it, a temporary one")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.given = list(sys.argv[1:] if argv is None else argv)
    if args.cpu and args.threads != 1:
        parser.error("--cpu counts the seconds of all threads together; give --threads 1")
    if args.small:
        args.images, args.documents, args.batches, args.blocks = 16, 300, 1, 1
    if args.stage:
        print(json.dumps(globals()[f"stage_{args.stage}"](args.work, args)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(args, args.work or Path(scratch))
    for r in report["rows"]:
        shown = ["-" if r[name] is None else f"{r[name]:.6g}" for name in ("ours", "peer")]
        print(f"{r['name']:<36}{shown[0]:>12} {shown[1]:>12} {r['unit']:<10} x{r['ratio']}")
    images = report["stages"]["images"]
    print(
        f"peer: {images['peer']}; one thread decodes and scales {images['decode_and_scale_s']:.0f} images/s and "
        f"tokenises {images['tokenizer_s']:.0f}: {images['tokenizer_share']:.0%} of our time is the tokenizer"
    )
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
