"""Measures of drawing, describing and completing sheets, judged exactly.

Pictures are read back by measuring pixels (cm3.stickers.verify), captions by their meaning (cm3.stickers.sentences);
nothing is compared with a reference word by word or pixel by pixel. A case comes from its task, seed and number alone,
so a task gives the same figures alone and among the others.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, Unpack

import numpy as np
import PIL.Image

from cm3.document import Document, Image
from cm3.errors import ConfigError, DataError
from cm3.eval.check import check_run
from cm3.generate import Options
from cm3.stickers.drawing import draw
from cm3.stickers.eval.sticker_cases import Case, cases
from cm3.stickers.sentences import holds, parse
from cm3.stickers.verify import SMALLEST, compare, read
from cm3.stickers.world import HELD_OUT, QUARTERS, Sheet, Split, any_sheet, random_sheet

TASKS = ("text_to_image", "unguided", "held_out", "image_to_text", "text_infill", "region_infill", "image_tokenizer")
"""Measurements, in this order. `unguided` repeats the prompts and seeds of `text_to_image` with guidance 1."""
TEXTS = ("image_to_text", "text_infill")
"""Those that a model answers with words; the others are pictures, which must be large enough to be read."""

Progress = Callable[[str, int, int], None]
"""Called with the task, how many of its cases are done, and how many there are."""

MISSED = 8
"""How many misses a report tells of each task."""
_CLOSEST = 0.01
"""Mean squared error in levels below which a reconstruction counts as this close: 68 dB, where rounding ends."""


class Model(Protocol):
    """The part that the evaluation needs of `cm3.generate.CM3Leon`."""

    @property
    def image_size(self) -> int: ...

    @property
    def image_codes(self) -> int: ...

    @property
    def grid(self) -> tuple[int, int]: ...

    def generate_many(
        self, prompts: Sequence[Any], *, seeds: Sequence[int], **sampling: Unpack[Options]
    ) -> Sequence[Any]: ...

    def reconstruct(self, pictures: list[PIL.Image.Image]) -> tuple[list[PIL.Image.Image], np.ndarray]: ...


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case: why it is wrong, or "" where it is right, and shares in 0..1 that tell more."""

    why: str
    number: int
    style: str
    shares: dict[str, float]
    asked: str = ""


def evaluate_stickers(
    model: Model,
    n: int = 500,
    *,
    seed: int = 0,
    batch: int = 32,
    split: Split = "test",
    tasks: Sequence[str] = TASKS,
    sampling: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model on `n` sheets for each task of a split that it was not trained on, a quarter with each number.

    `sampling` goes to every `generate_many` call (guidance, temperature, top_p, ...); without it the model's own
    recommendation holds. `batch` prompts are handed over at a time. Returns {"tasks": {name: figures}}, shares in 0..1:

        text_to_image    exact (the picture shows what the prompt says), exact_1 to exact_4 (of those with so many
                         stickers), and of the stickers or sheets the kinds, sizes, places, ground, count that are right
        unguided         the same with guidance 1      held_out   kinds in places where training never showed them
        image_to_text    exact (the caption is exactly and completely true), exact_1 to exact_4, kinds, ground, count
        text_infill      the same of the caption with the piece filled in
        region_infill    as text_to_image, and outside_unchanged (no byte outside the box, rounded outwards to whole
                         cells, differs from the picture given)
        image_tokenizer  psnr_db (mean over pictures), exact (of the pictures, encoded and decoded, that show their
                         sheet still), both again for kinds held out of training, codes_used (share of the codebook)

    with n, seed, split, sampling, and `details` by task: `by_style`, the first of what was `missed`, and images_per_s.
    A share over no cases at all is None. Raises `ConfigError` for an n or batch below 1, an unknown task, and for tasks
    that give pictures where a model's are too small to be measured.
    """
    check_run(n, batch, tasks, TASKS)
    pictures = [task for task in tasks if task not in TEXTS]
    if pictures and model.image_size < SMALLEST:
        raise ConfigError(
            f"image_size={model.image_size}: pictures are measured from {SMALLEST} pixels on; leave out "
            f"{', '.join(pictures)}"
        )
    settings = dict(sampling or {})
    figures: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for task in (t for t in TASKS if t in tasks):
        began = time.perf_counter()
        if task == "image_tokenizer":
            figures[task], outcomes = _tokenizer(model, n, seed, batch, split, progress)
        else:
            outcomes = _run(model, task, n, seed, batch, split, settings, progress)
            figures[task] = shares(outcomes)
        details[task] = explained(outcomes) | {"images_per_s": n / max(time.perf_counter() - began, 1e-9)}
    return {"tasks": figures, "n": n, "seed": seed, "split": split, "sampling": settings, "details": details}


def shares(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """Return the share of outcomes that are right, in all and by number of stickers, and the mean of every share."""
    more: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for name, value in outcome.shares.items():
            more[name].append(value)
    numbers = {f"exact_{k}": _mean([not o.why for o in outcomes if o.number == k]) for k in range(1, len(QUARTERS) + 1)}
    return {"exact": _mean([not o.why for o in outcomes]), **numbers, **{k: _mean(v) for k, v in more.items()}}


def explained(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the share that is right by style, and the first misses in words."""
    styles: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        styles[outcome.style].append(not outcome.why)
    missed = ({"asked": o.asked, "why": o.why} for o in outcomes if o.why)
    return {
        "by_style": {style: _mean(right) for style, right in sorted(styles.items())},
        "missed": list(islice(missed, MISSED)),
    }


def judge_picture(picture: PIL.Image.Image, caption: str, sheet: Sheet, style: str = "") -> Outcome:
    """Judge a picture by what a caption of a sheet says; a pair leaves row or column open."""
    reading = read(picture)
    told = compare(reading, sheet)
    right = reading.sheet is not None and bool(holds(parse(caption), reading.sheet))
    names = ("kinds", "sizes", "places", "ground", "count") if style != "pair" else ("ground", "count")
    notes = {"readable": float(reading.sheet is not None)} | {name: getattr(told, name) for name in names}
    return Outcome("" if right else told.why, len(sheet.stickers), style, notes, caption)


def judge_text(said: str, sheet: Sheet, style: str = "") -> Outcome:
    """Judge words by whether they are exactly and completely true of a sheet; words of another form are wrong."""
    try:
        statement = parse(said)
    except DataError as error:
        nothing = dict.fromkeys(("readable", "kinds", "ground", "count"), 0.0)
        return Outcome(f"{said!r:.200}: {error}", len(sheet.stickers), style, nothing, sheet.key)
    wanted, named = Counter(s.kind for s in sheet.stickers), Counter(m.kind for m in statement.mentions)
    notes = {
        "readable": 1.0,
        "kinds": (wanted & named).total() / wanted.total(),
        "ground": float(statement.ground == sheet.ground),
        "count": float(len(statement.mentions) == len(sheet.stickers)),
    }
    why = holds(statement, sheet).why
    return Outcome(why and f"{said!r:.200}: {why}", len(sheet.stickers), style, notes, sheet.key)


def _run(
    model: Model,
    task: str,
    n: int,
    seed: int,
    batch: int,
    split: Split,
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> list[Outcome]:
    sampling = {**settings, "guidance": 1.0, "contrast": None} if task == "unguided" else settings
    every = cases(task, seed, n, "held_out" if task == "held_out" else split, model.image_size)
    outcomes: list[Outcome] = []
    while some := list(islice(every, batch)):
        made = model.generate_many([c.prompt for c in some], seeds=[c.seed for c in some], **sampling)
        for case, one in zip(some, made, strict=True):
            if task in TEXTS:
                outcomes.append(judge_text(one.document.text, case.sheet, case.style))
            else:
                outcomes.append(_picture(case, one.document, model.grid))
        if progress is not None:
            progress(task, len(outcomes), n)
    return outcomes


def _picture(case: Case, made: Document, grid: tuple[int, int]) -> Outcome:
    if not made.images:
        names = ("readable", "kinds", "sizes", "places", "ground", "count")
        names = (*names, "outside_unchanged") if case.prompt.images else names
        nothing = dict.fromkeys(names, 0.0)
        return Outcome("no picture was made", len(case.sheet.stickers), case.style, nothing, case.caption)
    picture = made.images[-1].pixels
    outcome = judge_picture(picture, case.caption, case.sheet, case.style)
    if case.prompt.images:
        outcome.shares["outside_unchanged"] = float(_same_outside(picture, case.prompt.images[-1], grid))
    return outcome


def _same_outside(picture: PIL.Image.Image, given: Image, grid: tuple[int, int]) -> bool:
    """Tell whether every pixel outside the box, rounded outwards to whole cells, is byte for byte the given
    picture's."""
    if picture.mode != given.pixels.mode or picture.size != given.pixels.size or given.gap is None:
        return False
    width, height = picture.size
    high, wide = height // grid[0], width // grid[1]
    x0, y0, x1, y1 = given.gap
    same = np.asarray(picture) == np.asarray(given.pixels)
    same[y0 // high * high : -(-y1 // high) * high, x0 // wide * wide : -(-x1 // wide) * wide] = True
    return bool(same.all())


def _tokenizer(
    model: Model, n: int, seed: int, batch: int, split: Split, progress: Progress | None
) -> tuple[dict[str, float | None], list[Outcome]]:
    """Return the figures of the image tokenizer, and the outcome of each picture of the split.

    That share bounds what any model over these codes can draw, which the mean error alone does not tell.
    """
    rng = np.random.default_rng([seed, 0xE7A1, 0x70CE])
    every: dict[str, list[Outcome]] = {"": [], "held_out_": []}
    levels: dict[str, list[float]] = {"": [], "held_out_": []}
    used: set[int] = set()
    sheets = [("", random_sheet(rng, split, i % len(QUARTERS) + 1)) for i in range(n)]
    for i in range(n):
        kinds = [HELD_OUT[k] for k in rng.permutation(len(HELD_OUT))[: i % len(QUARTERS) + 1]]
        sheets.append(("held_out_", any_sheet(rng, kinds)))
    for start in range(0, 2 * n, batch):
        some = sheets[start : start + batch]
        pictures = [draw(sheet, model.image_size) for _, sheet in some]
        back, codes = model.reconstruct(pictures)
        for i, ((which, sheet), a, b) in enumerate(zip(some, pictures, back, strict=True)):
            told = compare(read(b), sheet)
            every[which].append(Outcome(told.why, len(sheet.stickers), "picture", {}, sheet.key))
            error = np.asarray(a, dtype=np.float64) - np.asarray(b.convert("RGB"), dtype=np.float64)
            levels[which].append(10 * float(np.log10(255**2 / max(float(np.mean(error**2)), _CLOSEST))))
            if not which:
                used |= set(np.unique(codes[i]).tolist())
        if progress is not None:
            progress("image_tokenizer", min(start + batch, 2 * n), 2 * n)
    figures: dict[str, float | None] = {}
    for which in every:
        figures[f"{which}psnr_db"] = _mean(levels[which])
        figures[f"{which}exact"] = _mean([not o.why for o in every[which]])
    return figures | {"codes_used": len(used) / model.image_codes}, [o for some in every.values() for o in some]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
