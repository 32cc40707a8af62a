"""`cm3 eval run`: a published benchmark on a model, from the dataset to a result page.

DIR/requests.jsonl      what is asked, a line each, with its seed
    predictions/        what the model gave, in units (docs/batch.md): the part that is resumed and shared
    predictions.json    the same as the owners of the benchmark take it, with references beside
    result.json         figures, and all that they depend on
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import (
    HERE,
    SILENT,
    Flag,
    Guided,
    ModelVerb,
    Retrieval,
    Verb,
    at_least,
    progress,
    stopped,
)
from cm3.cli.outputs import check_folder
from cm3.cli.results import keep, lines
from cm3.errors import Cm3Error, DataError, RequestError
from cm3.files import locked, parse_json, read_json, write
from cm3.train.signals import Terminated

if TYPE_CHECKING:
    from cm3.eval.suites.suite import Suite

REQUESTS, PREDICTIONS, RESULT = "requests.jsonl", "predictions", "result.json"


class _Held(Cm3Error):
    """Another process scores."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The work of several processes."""

    unit: Annotated[int, arg(metavar="N")] = 256
    """Requests that are drawn in one run of the engine, and most that a kill loses."""
    cluster: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="")] = None
    """Work on a Ray cluster: ray://HOST:10001, on a node of it HOST:6379, or local for one of this machine.
    It must see all paths alike."""
    tp: Annotated[int, arg(metavar="N")] = 1
    """Of the processes that torchrun started, N share one model, each with a part of every matrix on its own GPU."""


@dataclass(frozen=True, kw_only=True)
class EvalRun(ModelVerb):
    """Run a published benchmark on a model: ask for all of its items, score what comes, and keep both in a folder.

    `cm3 eval suites` lists the suites and what each reads. SOURCE is [KIND:]PATH[@SPLIT], the dataset as its owners
    publish it; the scenes need none. The same command goes on after a kill, and several processes of torchrun, or a
    Ray cluster, share the requests: predictions and figures are the same. DIR/result.json is the result;
    `cm3 eval compare` sets two against each other.

    examples:
      cm3 eval run scenes --model scenes --n 200 --out results/scenes
      cm3 eval run coco_captions data/coco@val2017 --model runs/tuned --out results/captions
      cm3 eval run coco_captions coco_karpathy:data/coco@test --model runs/tuned --out results/karpathy
      cm3 eval run vqa2 data/vqa2@val2014 --model runs/tuned --n 5000 --out results/vqa2 --json
      cm3 eval run visdial data/visdial@val --model runs/tuned --out results/visdial
      cm3 eval run coco30k data/coco@val2014 --model runs/7b --memory bank --retrieve 2 --guidance 3 --best-of 8 \\
          --rank-by openai/clip-vit-base-patch32 --features inception.pth --out results/coco30k
      cm3 eval run perplexity jsonl:data/held_out --model runs/7b --out results/perplexity
      cm3 eval run geneval2 GenEval2/geneval2_data.jsonl --guidance 3 --out results/geneval2
      cm3 eval run dpg ELLA/dpg_bench/prompts --guidance 3 --out results/dpg
      torchrun --nproc-per-node 8 -m cm3 eval run vqa2 data/vqa2@val2014 --out /shared/vqa2 --device cuda
    """

    suite: Annotated[Positional[str], arg(metavar="SUITE")]
    """Name of the benchmark, as `cm3 eval suites` lists it."""
    source: Annotated[Positional[str], arg(metavar="SOURCE", help_behavior_hint="")] = ""
    """Its dataset, [KIND:]PATH[@SPLIT], or its file or folder of prompts."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for requests, predictions and the result."""
    n: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all, of coco30k 30,000)")] = None
    """Most items, drawn by the seed."""
    skip_bad: Flag = False
    """Leave out items that cannot be read or drawn, and say so in the result; without it they end the run."""
    plain: Annotated[Flag, arg(help="Ask with pictures before the text, for a model that was tuned so.")] = False
    best_of: Annotated[int | None, arg(metavar="K", help_behavior_hint="(default: make one)")] = None
    """coco30k: make K pictures of each caption, 2 to 1024, and keep the best."""
    rank_by: Annotated[str, arg(metavar="ENCODER")] = "likelihood"
    """coco30k: what the best of K is chosen by: likelihood, of the whole document to the model, or a CLIP: a folder, or
    a hub id such as openai/clip-vit-base-patch32."""
    features: Annotated[str | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """coco30k: weights that FID is computed by, as `cm3 eval fid` takes them."""
    reference: Annotated[str | None, arg(metavar="split|asked|PATH", help_behavior_hint="(default: split)")] = None
    """coco30k: pictures to compare with: all of the split, those whose captions were asked, a folder, or statistics
    (.npz) as `cm3 eval fid` writes them."""
    protocol: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: official)")] = None
    """vqa2, okvqa, vizwiz: official, or always-normalise as lmms-eval does."""
    sampling: Annotated[Guided, HERE] = Guided()
    retrieval: Annotated[Retrieval, HERE] = Retrieval()
    shared: Annotated[Shared, HERE] = Shared()

    def run(self) -> dict[str, Any]:
        """List, draw and score; what is there already stays."""
        at_least(1, unit=self.shared.unit, tp=self.shared.tp, n=1 if self.n is None else self.n)
        at_least(0, seed=self.sampling.seed)
        began = time.perf_counter()
        from cm3.model.bundle import find

        check_folder(self.out)
        about = read_json(find(self.model) / "config.json", f"model {self.model!r}")
        suite = self._open(about)
        try:
            self._list(suite)
            drawn = self._draw(suite)
        except Terminated:  # raised by `main`, once
            return {"out": str(self.out), **stopped(self.out)}
        if drawn == SILENT:
            return SILENT
        try:
            if drawn is not None:
                with locked(self.out / ".score.lock", f"--out {self.out}", _Held):
                    return self._score(suite, about.get("sampling", {}), began)
        except _Held:
            pass
        print(f"{self.out}: the share of this process is done; another one scores")
        return {"out": str(self.out), "result": None}

    def _open(self, about: dict[str, Any]) -> Suite:
        from cm3.eval.suites import find_suite
        from cm3.eval.suites.suite import Asking
        from cm3.model.bundle import Shape
        from cm3.retrieval.embed import load_encoder

        made = find_suite(self.suite)
        encoder = None
        if self.rank_by != "likelihood":
            encoder = load_encoder(self.rank_by, device=self.place.device)
        shape = Shape.of(about, f"model {self.model!r}")
        side = shape.image_size // shape.image_tokenizer.factor
        asking = Asking(
            source=self.source, n=self.n, seed=self.sampling.seed, skip_bad=self.skip_bad, plain=self.plain,
            size=shape.image_size, grid=(side, side), tuned=tuple(about.get("about", {}).get("tasks", ())),
            world=about.get("about", {}).get("world"),
            device=self.place.device, protocol=self.protocol, features=self.features, reference=self.reference,
            best_of=self.best_of, encoder=encoder,
        )  # fmt: skip
        return made(asking, self.out)

    def _list(self, suite: Suite) -> None:
        """Write the requests, or compare with those that are there."""
        with progress("listing", unit="item") as update:
            suite.update = update
            text = "".join(json.dumps(one) + "\n" for one in suite.lines())
        self.told(suite.warnings)
        path = self.out / REQUESTS
        if not path.exists():
            write(path, text)
        elif path.read_text(encoding="utf-8") != text:
            raise RequestError(
                f"--out {self.out}: was begun with other requests than suite {self.suite} has now; give the same "
                "suite, source, --n and --seed, or choose another folder"
            )

    def _draw(self, suite: Suite) -> dict[str, Any] | None:
        from cm3.cli.batch_share import draw_share

        settings = {"n": 1, **self.sampling.arguments(), **self.retrieval.arguments()}
        root = suite.pictures.root or self.out
        with progress("drawing", unit="request") as update:
            return draw_share(
                self, self.out / REQUESTS, self.out / PREDICTIONS, settings, self.shared.unit, self.retrieval, update,
                lambda error: self.told([error]), tp=self.shared.tp, cluster=self.shared.cluster, pictures=root,
            )  # fmt: skip

    def _score(self, suite: Suite, recommended: dict[str, Any], began: float) -> dict[str, Any]:
        plan = read_json(self.out / PREDICTIONS / "batch.json", f"--out {self.out}", DataError)
        with progress("scoring", unit="item") as update:
            suite.update = update
            result = suite.score(self._records())
        drawn = self.out / PREDICTIONS / "results.jsonl"
        page = keep(
            self.out / RESULT, result, suite.name, suite.version, suite.references,
            {**suite.predictions, "drawn": drawn}, began, model=plan["model"], bank=plan["memory"],
            dtype=plan["dtype"], device=plan["device"], sampling=self._sampling(), recommended=recommended,
        )  # fmt: skip
        print("\n".join([*lines(page), str(self.out / RESULT)]))
        return page

    def _sampling(self) -> dict[str, Any]:
        """Return what the command says of sampling and retrieval; the rest is the model's own."""
        given = {**self.sampling.arguments(), **self.retrieval.arguments()}
        return {name: value for name, value in given.items() if value is not None and name != "seed"}

    def _records(self) -> Iterator[dict[str, Any]]:
        with (self.out / PREDICTIONS / "results.jsonl").open("rb") as file:
            for text in file:
                yield parse_json(text, "results.jsonl")


@dataclass(frozen=True, kw_only=True)
class EvalSuites(Verb):
    """List the benchmarks that `cm3 eval run` knows.

    examples:
      cm3 eval suites
      cm3 eval suites --json
    """

    def run(self) -> dict[str, Any]:
        """Print a line for each."""
        from cm3.eval.suites import SUITES

        for name, (_, about) in SUITES.items():
            print(f"{name:<18}{about}")
        return {"suites": {name: about for name, (_, about) in SUITES.items()}}
