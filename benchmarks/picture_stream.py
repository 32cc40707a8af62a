"""Pictures for an image tokenizer's training: the memory of each process, and the share of a step that waits for them.

    python benchmarks/picture_stream.py --photos DIR --json           # 20,000 photographs in web shards; 4 GB of disk
    python benchmarks/picture_stream.py --photos DIR --kind folder --count 2000 --workers 1

Photographs of DIR, each enlarged, cropped and mirrored by chance (another file each time), are written as a folder or
as web shards. Then a VQGAN trains on them by `cm3.data.pictures`, at 256 px with the paper's factor of 8 where
--size and --channels say nothing else. A step is one batch forward, backward and an update; `wait` is the time in
`Pictures.batch` alone, without the first batch, which also waits for the processes to start. Memory is the peak of the
resident set (Linux: VmHWM), of the process that trains and of each that decodes. `bare` is the same step on pictures
that are in memory, by turns in the same run: what the decoding takes away from it on a machine without idle cores.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from cm3.data.pictures import Pictures
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.picture import open_picture, rgb
from cm3.tokens.image import to_pixels

SEED = 13
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "sha_ni")


def photographs(folder: Path, count: int, side: int) -> Iterator[bytes]:
    """JPEG files whose shorter side is about `side`, each another cut of one of the folder's."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"{folder}: holds no .jpg")
    rng = np.random.default_rng(SEED)
    for number in range(count):
        picture = rgb(open_picture(files[number % len(files)].read_bytes()))
        scale = side / min(picture.size) * rng.uniform(1.0, 1.2)
        x, y = rng.uniform(0, 0.1, 2) * picture.size
        size = round(picture.width * scale * 0.9), round(picture.height * scale * 0.9)
        box = (x, y, x + 0.9 * picture.width, y + 0.9 * picture.height)
        picture = picture.resize(size, PIL.Image.Resampling.BICUBIC, box=box)
        if rng.random() < 0.5:
            picture = picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85)
        yield file.getvalue()


def write(home: Path, kind: str, files: Iterator[bytes], each: int = 1000) -> tuple[str, int]:
    """Write files as a folder, or as web shards of `each`; returns the source and how many bytes they have."""
    home.mkdir(parents=True)
    total, tar = 0, None
    for number, data in enumerate(files):
        total += len(data)
        if kind == "folder":
            (home / f"{number:06d}.jpg").write_bytes(data)
            continue
        if number % each == 0:
            if tar is not None:
                tar.close()
            tar = tarfile.open(home / f"{number // each:05d}.tar", "w")
        member = tarfile.TarInfo(f"{number:06d}.jpg")
        member.size = len(data)
        assert tar is not None
        tar.addfile(member, io.BytesIO(data))
    if tar is not None:
        tar.close()
    return f"{'folder' if kind == 'folder' else 'webdataset'}:{home}", total


def peak(process: int) -> int:
    """Most bytes that a process had in memory."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def flags() -> list[str]:
    """Return which of `FLAGS` the processor has."""
    found = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    return [flag for flag in FLAGS if flag in found]


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Write the pictures, read the source, train."""
    source, total = write(work / "pictures", args.kind, photographs(args.photos, args.count, args.side))
    config = VQGANConfig(channels=args.channels, blocks=1, attention=False)
    torch.manual_seed(SEED)
    model = VQGAN(config)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    began = time.perf_counter()
    pictures = Pictures(source, args.size, args.batch, seed=SEED, workers=args.workers)
    listed = time.perf_counter() - began

    def step(batch: Sequence[PIL.Image.Image]) -> None:
        x = to_pixels(batch)
        z_q, _, aux = model.quantize(model.latents(x), torch.Generator().manual_seed(SEED))
        loss = (model.draw(z_q) - x).abs().mean() + aux
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    waits, steps, bare = [], [], []
    with pictures:
        kept = pictures.batch(0)
        for number in range(1, args.steps + 1):
            began = time.perf_counter()
            batch = pictures.batch(number)
            got = time.perf_counter()
            step(batch)
            waits.append(got - began)
            steps.append(time.perf_counter() - began)
            if number % 4 == 0:
                began = time.perf_counter()
                step(kept)
                bare.append(time.perf_counter() - began)
        workers = [peak(child.pid or 0) for child in multiprocessing.active_children()]
    return {
        "pictures": len(pictures) + len(pictures.held),
        "source_bytes": total,
        "listed_s": listed,
        "step_s": statistics.median(steps),
        "bare_step_s": statistics.median(bare),
        "wait_share": sum(waits) / sum(steps),
        "peak_bytes": peak(os.getpid()),
        "worker_peak_bytes": workers,
        "images_s": args.batch * len(steps) / sum(steps),
        "processor": {"machine": platform.machine(), "flags": flags(), "cores": len(os.sched_getaffinity(0))},
        "load": os.getloadavg()[0],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of .jpg")
    parser.add_argument("--kind", choices=("shards", "folder"), default="shards")
    parser.add_argument("--count", type=int, default=20_000, help="pictures to write")
    parser.add_argument("--side", type=int, default=640, help="shorter side of a picture, in pixels")
    parser.add_argument("--size", type=int, default=256, help="side that is trained on")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--channels", type=int, default=32, help="width of the VQGAN")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode")
    parser.add_argument("--threads", type=int, default=1, help="threads that train")
    parser.add_argument("--work", type=Path, help="folder to work in, kept; without it, a temporary one")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(args, args.work or Path(scratch))
    mega = 1e-6
    print(
        f"{found['pictures']} pictures, {found['source_bytes'] * mega:.0f} MB, listed in {found['listed_s']:.1f} s\n"
        f"step {found['step_s']:.3f} s (bare {found['bare_step_s']:.3f}), {found['wait_share']:.2%} of it waits\n"
        f"peak memory {found['peak_bytes'] * mega:.0f} MB; decoding "
        f"{', '.join(f'{one * mega:.0f}' for one in found['worker_peak_bytes']) or 'in the same process'} MB\n"
        f"{found['processor']}, load {found['load']:.1f}"
    )
    if args.json:
        print(json.dumps(found | {"arguments": {k: str(v) for k, v in vars(args).items()}}))


if __name__ == "__main__":
    sys.exit(main())
