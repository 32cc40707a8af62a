"""The plan behind docs/claims.md: the paper's statements in miniature, on the world that ships.

    cm3 eval claims --size reduced --out runs/claims      # 20 minutes of one core
    cm3 eval claims --size full --out runs/claims         # three quarters of an hour

`plan` lists its steps in the order of work; a statement is judged by `cm3/claims/verdicts.py` from what they give.
Models are trained once and used by several statements:

    sizes     trained alike on captioned scenes            2 (guidance), 5 (size), and what the others begin with
    laws      the middle one with other masks in training  3
    tuned     the middle one on several tasks, and on one  6
    named     the middle one on names of scenes, with retrieved documents and without, for three budgets      7
    shipped   the model in the package                     1

Prices are arithmetic: seconds of one core of an AVX2 processor, `TOKEN` and `PICTURE`, measured on a model of the plan
and on the one that ships; the command multiplies what is left by how long the steps so far took over their prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cm3.claims import drawn_world as world
from cm3.claims.steps import Step, measured, tokens_of, trained
from cm3.model.sizes import parameters
from cm3.runs import PretrainRun
from cm3.sequence.mask import MaskLaw

from .scenes import pretrain

TOKEN = (0.6e-4, 1.6e-4)
"""Seconds to learn from a token: for any model, and for each million parameters more."""
PICTURE = (0.02, 0.01)
"""Seconds to draw a picture with guidance and read it back, likewise."""
START = 3.0
"""Seconds to start a run, and to open a model."""


@dataclass(frozen=True)
class Size:
    """A plan's size."""

    models: dict[str, tuple[int, int, int]]
    """By name: width, layers, heads; from the smallest to the largest."""
    middle: str
    """The one that other runs are of."""
    objects: tuple[float, ...]
    """Shares of scenes with one object, two, ..."""
    steps: int
    """Updates from nothing."""
    tuning: int
    """Updates of tuning, and of the largest budget of statement 7."""
    windows: int
    """Windows of 512 tokens an update."""
    prompts: int
    """Prompts for each setting that is compared."""
    scales: tuple[float, ...]
    """Of guidance, each as many times the one before."""
    pool: int
    """Prompts of statement 4."""
    each: int
    """Candidates of each of its two ways: a power of two, 8 at least."""
    names: int
    """Names that models of statement 7 are trained on."""


SIZES = {
    "full": Size(
        models={"64x2": (64, 2, 2), "96x3": (96, 3, 3), "128x4": (128, 4, 4)},
        middle="128x4",
        objects=(0.5, 0.5),
        steps=1000,
        tuning=600,
        windows=2,
        prompts=300,
        scales=(1.0, 1.41, 2.0, 2.83, 4.0, 5.66),
        pool=100,
        each=32,
        names=200,
    ),
    "reduced": Size(
        models={"64x2": (64, 2, 2), "96x3": (96, 3, 3), "128x4": (128, 4, 4)},
        middle="96x3",
        objects=(1.0,),
        steps=500,
        tuning=200,
        windows=2,
        prompts=100,
        scales=(1.0, 1.41, 2.0, 2.83, 4.0, 5.66),
        pool=40,
        each=16,
        names=50,
    ),
    "smallest": Size(
        models={"32x1": (32, 1, 1), "48x1": (48, 1, 1), "64x1": (64, 1, 2)},
        middle="32x1",
        objects=(1.0,),
        steps=2,
        tuning=4,
        windows=1,
        prompts=2,
        scales=(1.0, 2.0),
        pool=2,
        each=8,
        names=4,
    ),
}
BUDGETS = (0.25, 0.5, 1.0)
"""Of statement 7, as shares of the tuning."""
SEED, TEMPERATURE = 7, 0.7
"""Of every measurement."""
WAYS = {
    "top-p": {"temperature": 1.0, "top_p": 0.9, "guidance": 2.0},
    "cd-k": {"temperature": 1.0, "contrast": "kmax", "k": 2, "alpha": 0.5},
}
"""The paper prints none of these. With them the shipped model draws about as well either way, as the paper's did."""
BLOCK = 50
"""Prompts of statement 4 in one step: what a kill costs at most."""


def base(
    shape: tuple[int, int, int] = (128, 4, 4),
    steps: int = 1000,
    windows: int = 2,
    objects: Sequence[float] = (0.5, 0.5),
) -> PretrainRun:
    """A small model from nothing, on captioned scenes: the run that all others of the plan are variations of.

    Price: 1,000 steps of 1,024 tokens at 4,100 a second, 4 minutes on one core. Promise: docs/claims.md.
    """
    first, (width, layers, heads) = pretrain(), shape
    return replace(
        first,
        out="runs/claims/base",
        model=replace(first.model, d_model=width, layers=layers, heads=heads),
        # A higher rate of embeddings and smaller batches than the shipped model's: docs/sweeps.md, docs/log.md.
        optim=replace(first.optim, lr=4e-3, adam_lr=1.2e-2, warmup=min(50, steps // 10)),
        windows=windows,
        steps=steps,
        save_every=200,
        sample_every=0,
        threads=0,
        data=world.plain(1, objects),
    )


def plan(name: str) -> list[Step]:
    """Return the steps of a plan by the name of its size, in the order of work."""
    size, about = SIZES[name], world.about()
    ob, seed, n = list(size.objects), SEED, size.prompts
    runs = {name: base(shape, size.steps, size.windows, ob) for name, shape in size.models.items()}
    middle, found = runs[size.middle], list[Step]()

    def millions(model: str) -> float:
        return parameters(runs.get(model, pretrain()).model) / 1e6

    def draw(
        step: str, measure: str, of: str, pictures: int, serves: tuple[int, ...], shape: str = "", **more: Any
    ) -> None:
        price = START + pictures * (PICTURE[0] + PICTURE[1] * millions(shape or of))
        found.append(measured(step, measure, price, of, about, serves, seed=seed, **more))

    def train(step: str, run: PretrainRun, serves: tuple[int, ...], after: str = "", shape: str = size.middle) -> None:
        price = START + tokens_of(run) * (TOKEN[0] + TOKEN[1] * millions(shape))
        found.append(trained(step, run, price, after, about, serves))

    def at_scales(step: str, of: str, serves: tuple[int, ...], shape: str = "") -> None:
        for scale in size.scales:
            draw(
                f"{step}-g{scale}", "pictures", of, n, serves, shape,
                n=n, objects=ob, guidance=scale, temperature=TEMPERATURE,
            )  # fmt: skip

    # 1: the shipped model, with 0, 1, 2 documents read
    for k in (0, 1, 2):
        draw(f"shipped-{k}", "named", world.NAME, n * (1 + k), (1,), n=n, split="test", retrieve=k)
    draw("found", "retrieved", "", 0, (1,), world.NAME, n=n, split="test")
    # 2 and 5: sizes
    for model in size.models:
        train(model, runs[model], (2, 5), shape=model)
        draw(f"loss-{model}", "losses", model, n // 4, (5,), n=n, objects=ob)
        at_scales(model, model, (2, 3) if model == size.middle else (2,))
    # 3: laws of masking; the sizes were trained with ours
    laws = {
        "ours": middle.mask,
        "published": replace(middle.mask, law="published"),
        "none": MaskLaw(rate=0.0, columns=middle.mask.columns),
    }
    for law, mask in laws.items():
        settings = {"law": mask, "n": n, "objects": ob}
        draw(f"masked-{law}", "masked", "", 0, (3,), size.middle, **settings)
        if law != "ours":
            train(f"law-{law}", replace(middle, mask=mask), (3,))
            at_scales(f"law-{law}", f"law-{law}", (3,), size.middle)
    # 4: candidates
    for way, sampling in WAYS.items():
        for first in range(0, size.pool, BLOCK):
            some = min(BLOCK, size.pool - first)
            settings = {"first": first, "n": some, "objects": ob, "each": size.each, **sampling}
            draw(f"{way}-{first}", "candidates", size.middle, some * size.each, (4,), **settings)
    # 6: instructions
    asked = {"n": n, "objects": ob}
    for kind, shares in (("before", {}), ("mixture", world.MIXTURE), ("one", world.ONE)):
        of = f"tuned-{kind}" if shares else size.middle
        if shares:
            run = replace(tuned(middle, size.tuning, 0.5), data=world.lessons(5, ob, shares))
            train(of, run, (6,), size.middle)
        draw(f"answers-{kind}", "answers", of, n // 2, (6,), size.middle, **asked)
        draw(f"captions-{kind}", "captions", of, n // 2, (6,), size.middle, **asked)
    # 7: compute, with documents and without
    for share in BUDGETS:
        for kind, documents in (("with", (0.2, 0.8)), ("without", (1.0,))):
            of, run = f"{kind}-{share}", tuned(middle, round(size.tuning * share), 1.0)
            train(of, replace(run, data=world.named(9, ob, size.names, documents)), (7,), size.middle)
            settings = {"n": min(n, size.names), "retrieve": int(kind == "with"), "guidance": 1.0}
            for split in ("train", "test"):
                draw(
                    f"{of}-{split}", "named", of, 2 * n, (7,), size.middle,
                    split=split, temperature=TEMPERATURE, **settings,
                )  # fmt: skip
    return found


def tuned(run: PretrainRun, steps: int, rate: float) -> PretrainRun:
    """Return a run that goes on from another's model, at a share of its rates."""
    optim = replace(run.optim, lr=run.optim.lr * rate, adam_lr=run.optim.adam_lr * rate, warmup=min(20, steps // 10))
    return replace(run, steps=steps, seed=1, optim=replace(optim, decay_from=0.5))
