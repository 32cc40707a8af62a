"""Evaluating against generating the same: `cm3 eval run` and `cm3 generate --prompts` on its requests, in one run.

    python benchmarks/suites.py --json                        # 48 photographs captioned, asked about, and drawn
    python benchmarks/suites.py --n 512 --suites vqa2 --rounds 3

The datasets are made before the clock runs, in their owners' layouts: pictures of 640 x 480 with five captions, or
with a question and ten answers, and prompts of four pictures each. Both commands are given in one process, by turns,
with the model that comes with the package; a figure is the median of the rounds, in seconds of the processor, which
other work on the machine disturbs little. Evaluating lists the requests, draws, and scores: its ratio is to be over
0.95.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from cm3.cli.main import main as cm3

WORDS = "a large red circle at the top left beside small white stars above one blue square on green ground".split()
SUITES = ("coco_captions", "vqa2", "dpg")


def photograph(path: Path, rng: np.random.Generator) -> None:
    """Write a picture that takes as long to decode as a photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = PIL.Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    small.resize((640, 480), PIL.Image.Resampling.BICUBIC).save(path, quality=90)


def said(rng: np.random.Generator, n: int = 9) -> str:
    return " ".join(rng.choice(WORDS, n))


def dataset(suite: str, root: Path, n: int) -> str:
    """Make the dataset of a suite; returns its source."""
    rng = np.random.default_rng(1)
    if suite == "dpg":
        root.mkdir(parents=True)
        for i in range(n):
            (root / f"{i}.txt").write_text(said(rng, 12))
        return str(root)
    if suite == "coco_captions":
        for i in range(n):
            photograph(root / f"val2017/{i:012d}.jpg", rng)
        images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(n)]
        captions = [{"id": 5 * i + k, "image_id": i, "caption": said(rng)} for i in range(n) for k in range(5)]
        (root / "annotations").mkdir()
        page = {"images": images, "annotations": captions}
        (root / "annotations/captions_val2017.json").write_text(json.dumps(page))
        return f"coco:{root}@val2017"
    for i in range(n):
        photograph(root / f"val2014/COCO_val2014_{i:012d}.jpg", rng)
    asked = [{"question_id": i, "image_id": i, "question": said(rng, 5)} for i in range(n)]
    told = [
        {"question_id": i, "image_id": i, "answers": [{"answer": said(rng, 1)} for _ in range(10)]} for i in range(n)
    ]
    (root / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": asked}))
    (root / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": told}))
    return f"vqa2:{root}@val2014"


def timed(*args: str | Path) -> float:
    """Give a command in this process; returns the seconds of the processor that it took."""
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
        code = cm3([str(one) for one in args])
    if code:
        raise SystemExit(f"{' '.join(map(str, args))}: ended with {code}: {told.getvalue()}")
    return time.process_time() - began


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Every round of each suite and of its peer, by turns."""
    rows, every = [], dict[str, Any]()
    for suite in args.suites:
        source = dataset(suite, work / suite / "data", args.n)
        root = work / suite / "data"
        took: dict[str, list[float]] = {"ours": [], "peer": []}
        for number in range(args.rounds + 1):  # the first opens what is opened once
            out, drawn = work / suite / f"ours{number}", work / suite / f"peer{number}"
            more = ("--model", args.model, "--threads", "1")
            ours = timed("eval", "run", suite, source, "--out", out, *more)
            shutil.copyfile(out / "requests.jsonl", root / "requests.jsonl")
            peer = timed("generate", "--prompts", root / "requests.jsonl", "--out", drawn, *more)
            same = [(folder / "results.jsonl").read_bytes() for folder in (out / "predictions", drawn)]
            if same[0] != same[1]:
                raise SystemExit(f"{suite}: the two commands wrote different results")
            if number:
                took["ours"].append(ours)
                took["peer"].append(peer)
        middle = {name: statistics.median(values) for name, values in took.items()}
        ratio = round(middle["peer"] / middle["ours"], 3)
        rows.append({"name": suite, **{k: round(v, 3) for k, v in middle.items()}, "ratio": ratio, "unit": "cpu s"})
        every[suite] = took
    return {"rows": rows, "n": args.n, "rounds": args.rounds, "model": args.model, "all": every}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=48, help="items of each suite")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--model", default="scenes", help="the model: a name, or a bundle's folder")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    args = parser.parse_args(argv)
    if args.n < 2 or args.rounds < 1:
        parser.error("--n must be at least 2, --rounds at least 1")
    with tempfile.TemporaryDirectory() as work:
        report = measure(args, Path(work))
    for row in report["rows"]:
        print(f"{row['name']:<16}{row['ours']:>9} cpu s, generating alone {row['peer']:>9}  x{row['ratio']}")
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
