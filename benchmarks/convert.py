"""Converting a model of Chameleon 7B's shape into a bundle and back: against a plain copy on the same disk, and memory.

    python benchmarks/convert.py --work DIR --json                        # 14 GB of weights, 42 GB of disk
    python benchmarks/convert.py --layers 2 --width 512 --layout chameleon-hf

Weights are drawn and written to the disk in a published layout, weight by weight. Each conversion and each copy is a
process of its own that begins with nothing of the source in the system's cache and ends when all is on the disk. Memory
is the peak of the resident set (Linux: VmHWM), pages of mapped files among it. What comes back is compared with what
was drawn, file by file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cm3.convert.convert import convert
from cm3.convert.decoder_layouts import our_shapes
from cm3.convert.ids import IdMap
from cm3.convert.image_layouts import Found
from cm3.convert.language_models import Model
from cm3.convert.targets import steps_of
from cm3.files import sha256
from cm3.model.decoder import DecoderConfig
from cm3.model.vqgan import VQGAN, VQGANConfig
from cm3.tokens.text import alphabet

IDS, CODES = 65_536, 8_192
CHUNK = 1 << 24
ROOT = Path(__file__).resolve().parents[1]


def text_tokenizer() -> bytes:
    """Return a text_tokenizer.json with as many names as Chameleon's, of the same kinds; its words are made up."""
    codes = ["IMGIMG" + "".join(chr(65 + int(digit)) for digit in str(code)) + "Z" for code in range(CODES)]
    specials = ["<s>", "<pad>", "</s>", "<unk>", *codes, "<eoss>", "<racm3:break>"]
    specials += [f"<sentinel:{i}>" for i in range(512)]
    specials += [f"<reserved{i:05}>" for i in range(8706, 8816)]
    letters = sorted(alphabet())
    names = [*specials, *letters, *(f"w{i:x}" for i in range(IDS - len(specials) - len(letters)))]
    added = [{"id": id, "content": name, "special": True} for id, name in enumerate(specials)]
    model = {"type": "BPE", "vocab": {name: id for id, name in enumerate(names)}, "merges": []}
    bytes_of_text = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    page = {"added_tokens": added, "pre_tokenizer": bytes_of_text, "decoder": bytes_of_text, "model": model}
    return json.dumps(page).encode()


def drawn(args: argparse.Namespace) -> Model:
    """Return a model whose weights are drawn when they are read."""
    heads = args.width // 128
    config = DecoderConfig(
        vocab_size=IDS, d_model=args.width, layers=args.layers, heads=heads, kv_heads=heads, hidden=args.hidden,
        activation="swiglu", norm="rms", norm_affine=True, qk_norm=True, positions="rope", tied=False,
    )  # fmt: skip
    shapes = our_shapes(config)
    numbers = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()

    def read(name: str) -> Tensor:
        shape = shapes[name]
        if "q_norm" in name or "k_norm" in name:
            return numbers[: shape[1]].expand(shape)
        size = torch.Size(shape).numel()
        begin = sum(name.encode()) % 4096
        return numbers[begin:].repeat(-(-size // (len(numbers) - begin)))[:size].view(shape)

    torch.manual_seed(0)
    vqgan = VQGAN(
        VQGANConfig(
            factor=16, channels=args.channels, multipliers=(1, 1, 2, 2, 4), z_channels=256, quantizer="vq",
            codes=CODES, code_dim=256, groups=32, restart_after=0,
        )
    ).eval()  # fmt: skip
    text = text_tokenizer()
    image = Found(vqgan, 512, {"from": "chameleon", "dtype": "float32"})
    return Model(config, dict.fromkeys(shapes, torch.bfloat16), read, IdMap.of(text), text, image, {}, {}, {})


def make(model: Model, layout: str, folder: Path) -> None:
    """Write the source."""
    steps, last = steps_of(model, layout)
    for step in steps:
        (folder / step.file).parent.mkdir(parents=True, exist_ok=True)
        step.write(folder / step.file, lambda size: None)
    (folder / ("params.json" if layout == "chameleon-meta" else "config.json")).write_text(last({}))


def copied(source: Path, out: Path) -> None:
    """Copy a folder as a plain program does, to the disk."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            place = out / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "rb") as read, open(place, "wb") as written:
                while data := read.read(CHUNK):
                    written.write(data)
                written.flush()
                os.fsync(written.fileno())


def forget(folder: Path) -> None:
    """Let the system forget what it holds of files."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peak() -> int:
    """Return the peak of this process's resident set, in bytes; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def apart(*words: str | Path) -> dict[str, Any]:
    """Carry out one job in a process of its own; returns its seconds and its peak memory."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    ran = subprocess.run([sys.executable, __file__, "--job", *words], capture_output=True, text=True, env=env)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def job(words: Sequence[str]) -> dict[str, Any]:
    """Copy or convert, timed."""
    to, source, out, *image = words
    before = peak()
    began = time.perf_counter()
    if to == "copy":
        copied(Path(source), Path(out))
    else:
        convert(source, out, to, image_tokenizer=image[0] if image else None)
    return {"seconds": time.perf_counter() - began, "peak": peak(), "before": before}


def size(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Make, convert both ways, and copy between."""
    model = drawn(args)
    source, made, back, copy = (work / name for name in ("source", "bundle", "back", "copy"))
    make(model, args.layout, source)
    image: list[str | Path] = []
    if args.layout == "chameleon-hf":
        meta = work / "meta"
        steps, _ = steps_of(model, "chameleon-meta")
        (step,) = (step for step in steps if step.file.endswith("vqgan.ckpt"))
        meta.mkdir()
        step.write(meta / "vqgan.ckpt", lambda size: None)
        image = [meta / "vqgan.ckpt"]
    total, largest = size(source), max(p.stat().st_size for p in source.rglob("*") if p.is_file())
    rows = []
    memory = {}
    for name, (to, start, out, *more) in {
        "into a bundle": ("bundle", source, made, *image),
        "out of a bundle": (args.layout, made, back),
    }.items():
        forget(start)
        plain = apart("copy", start, copy)
        shutil.rmtree(copy)
        forget(start)
        ours = apart(to, start, out, *more)
        forget(out)
        speed, limit = (size(start) / 1e9 / found["seconds"] for found in (ours, plain))
        rows.append({"name": name, "ours": speed, "peer": limit, "ratio": speed / limit, "unit": "GB/s"})
        memory[name] = {"peak_bytes": ours["peak"], "before_bytes": ours["before"], "seconds": ours["seconds"]}
    files = [p.relative_to(source) for p in sorted(source.rglob("*")) if p.suffix in (".pth", ".safetensors")]
    same = all(sha256(source / file) == sha256(back / file) for file in files)
    return {
        "rows": rows, "memory": memory, "source_bytes": total, "largest_file_bytes": largest, "same": same,
        "layout": args.layout, "load": os.getloadavg()[0],
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=("chameleon-meta", "chameleon-hf"), default="chameleon-meta")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096, help="a multiple of 128, the width of a head")
    parser.add_argument("--hidden", type=int, help="feed-forward width; Chameleon's for the width where not given")
    parser.add_argument("--channels", type=int, default=128, help="width of the image tokenizer")
    parser.add_argument("--work", type=Path, help="folder on the disk to measure; what it makes there is taken away")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.job:
        print(json.dumps(job(args.job)))
        return
    if args.width % 128 or args.width < 128:
        parser.error(f"--width {args.width}: must be a multiple of 128")
    args.hidden = args.hidden or 256 * -(-int(8 * args.width / 3) // 256)
    with tempfile.TemporaryDirectory(dir=args.work) as scratch:
        found = measure(args, Path(scratch))
    total, largest = (found[name] / 1e9 for name in ("source_bytes", "largest_file_bytes"))
    print(f"{total:.2f} GB in {args.layout}, its largest file {largest:.2f} GB")
    for row in found["rows"]:
        at = found["memory"][row["name"]]
        print(
            f"{row['name']:<16} {row['ours']:.2f} GB/s, a copy {row['peer']:.2f}: {row['ratio']:.0%}; peak memory "
            f"{at['peak_bytes'] / 1e9:.2f} GB, of which {at['before_bytes'] / 1e9:.2f} before it began"
        )
    print(
        f"what came back is {'the same, byte for byte' if found['same'] else 'NOT the same'}; load {found['load']:.1f}"
    )
    if args.json:
        print(json.dumps(found | {"arguments": {k: str(v) for k, v in vars(args).items()}}))


if __name__ == "__main__":
    sys.exit(main())
