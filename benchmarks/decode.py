"""Decoding against transformers' Chameleon on the same weights, and against another checkout, by turns in one run.

    python benchmarks/decode.py --json                             # 10m and 85m: prompts of 64, 256 codes, three rounds
    python benchmarks/decode.py --shapes 85m --before ../old       # the same of the checkout ../old, by turns
    python benchmarks/decode.py --shapes 350m --cases one,guided --new 32 --rounds 1
    python benchmarks/decode.py --quick                            # prompts of 16, 16 codes, one round
    python benchmarks/decode.py --model scenes --rounds 9          # a trained model: windows of codes
    python benchmarks/decode.py --shapes 7b --device cuda --cases guided --new 1024 --dtypes bfloat16

cm3/bench/decode.py says which cases there are and how they are measured; `cm3 bench decode` prints the same table. Here
are more settings, and `--before`: the engine of an earlier commit, from a worktree, measured by the code of this one in
a process of its own. `--model` is that of the verb (cm3/bench/windows.py), of as many pictures as rounds. One thread by
default, so that seconds are the processor's, which other work on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]


def take_cm3(checkout: Path) -> None:
    """Import cm3 of a checkout, but the measuring code of this one."""
    sys.path.insert(0, str(checkout))
    import cm3

    at = Path(cm3.__file__).resolve().parents[1]
    if at != checkout:
        raise SystemExit(f"{checkout}: Python imports cm3 from {at}; give the root of a checkout")
    own = HERE / "cm3/bench"
    spec = importlib.util.spec_from_file_location(
        "cm3.bench", own / "__init__.py", submodule_search_locations=[str(own)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["cm3.bench"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def serve(args: argparse.Namespace) -> None:
    """Answer each line of stdin, a case, with its seconds and passes: our side, of the checkout at hand."""
    from cm3.bench.decode import ours, prepared
    from cm3.bench.machine import place

    decoder, work = prepared(args.shapes[0], args.prompt, args.new, place(args.device))
    side = ours(decoder, args.dtypes[0], work, "before")
    del decoder
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(side.measure(line.strip())), flush=True)


class Before:
    """Our side of another checkout, in a process of its own."""

    cases = ("one", "guided", "eight", "mixed", "arrivals")

    def __init__(self, args: argparse.Namespace, size: str, dtype: str) -> None:
        self.name, self.dtype = f"before {dtype}", dtype
        command = [sys.executable, __file__, "--serve", "--before", str(args.before), "--shapes", size]
        command += ["--dtypes", dtype, "--prompt", str(args.prompt), "--new", str(args.new)]
        command += ["--threads", str(args.threads), "--device", args.device]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def measure(self, case: str) -> tuple[float, int]:
        """Seconds and passes of a case."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        took, passes = json.loads(self._line())
        return took, passes

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of a checkout ended with {self.process.wait()}; see above")
        return line


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Every shape: one table of all rows, and what else was found of each."""
    from cm3.bars import bar
    from cm3.bench.decode import measure
    from cm3.bench.machine import about, place

    device, shapes = place(args.device), []
    others: list[Before] = []

    def before(size: str, dtype: str) -> Before:
        others.append(Before(args, size, dtype))
        return others[-1]

    for size in args.shapes:
        with bar(size, unit="run") as drawn:

            def update(done: int, total: int, label: str, drawn: Any = drawn) -> None:
                drawn.total = total
                drawn.set_description(label, refresh=False)
                drawn.update(done - drawn.n)

            try:
                shapes.append(
                    measure(
                        size,
                        prompt=args.prompt,
                        new=args.new,
                        rounds=args.rounds,
                        cases=args.cases,
                        dtypes=args.dtypes,
                        device=device,
                        peer=not args.no_peer,
                        graphs=False if args.no_graphs else "auto",
                        progress=update,
                        before=None if args.before is None else lambda dtype, size=size: before(size, dtype),
                    )  # fmt: skip
                )
            finally:
                while others:
                    others.pop().close()
    return {"rows": [row for one in shapes for row in one.pop("rows")], "shapes": shapes, **about(device)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=lambda s: s.split(","), default=["10m", "85m"], help="of 10m,85m,350m,760m,7b")
    parser.add_argument("--cases", type=lambda s: s.split(","), help="of one,guided,eight,mixed,level,arrivals")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=256, help="codes that a request draws")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="prompts of 16 tokens, 16 codes, one round")
    parser.add_argument(
        "--dtypes", type=lambda s: s.split(","), help="of float32,bfloat16,int8; left out, those of the device"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="root of another checkout, to compare with")
    parser.add_argument("--model", help="a bundle: its name, folder, or hf://OWNER/NAME; in the place of shapes")
    parser.add_argument("--say", help="with --model, the picture to draw")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    parser.add_argument("--no-graphs", action="store_true", help="on a GPU, no step is recorded as a CUDA graph")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.quick:
        args.prompt, args.new, args.rounds = 16, 16, 1
    if args.before is not None:
        args.before = args.before.resolve()
        if not (args.before / "cm3").is_dir():
            parser.error(f"--before {args.before}: has no cm3; give the root of a checkout")
    take_cm3(args.before if args.serve else HERE)

    import torch

    from cm3.bench.decode import CASES, table
    from cm3.errors import Cm3Error

    if args.threads < 1:
        parser.error("--threads: must be at least 1")
    torch.set_num_threads(args.threads)
    args.cases = args.cases or list(CASES)
    if args.serve:
        serve(args)
        return
    from cm3.bench.windows import told
    from cm3.cli.bench import PICTURE, measure_model

    try:
        if args.model is not None:
            report = measure_model(args.model, args.say or PICTURE, args.rounds, args.device)
        else:
            report = measured(args)
    except Cm3Error as error:
        parser.error(str(error))
    print(table(report["rows"]))
    if args.model is not None:
        print(*told(report["rows"]), sep="\n")
    for one in report.get("shapes", ()):
        print(f"{one['shape']}: streamed at {one['streaming_gb_s']} GB/s; the peer's caches {one['peer_caches_s']} s")
    print(f"{report['device']} ({', '.join(report['flags'])}), torch {report['torch']}, {report['threads']} threads")
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
