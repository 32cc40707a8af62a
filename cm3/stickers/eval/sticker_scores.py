"""A model of stickers, measured: each answer is judged by a verifier that knows the truth.

Pictures are read back by measuring pixels (cm3.stickers.verify), captions by their meaning (cm3.stickers.sentences);
nothing is compared with a reference word by word or pixel by pixel. A case comes from its task, seed and number alone,
so a task gives the same figures alone and among the others.

    plain           drawing, describing, filling holes, and the image tokenizer        here
    retrieval       kinds that no training saw, from documents of a bank               retrieval_scores.py
    instructions    what a tuned model is asked to do                                  instruction_scores.py
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from cm3.document import Document, Image
from cm3.errors import ConfigError
from cm3.eval.check import check_run
from cm3.stickers.drawing import draw
from cm3.stickers.eval.instruction_scores import INSTRUCTIONS, run_instruction
from cm3.stickers.eval.retrieval_scores import RETRIEVAL, run_retrieval
from cm3.stickers.eval.sticker_cases import Case, cases
from cm3.stickers.eval.sticker_judges import (
    Outcome,
    Plan,
    Progress,
    details_of,
    figures_of,
    in_words,
    judge_picture,
    judge_text,
    judge_wish,
    means,
)
from cm3.stickers.verify import SMALLEST, compare, read
from cm3.stickers.world import HELD_OUT, QUARTERS, Sheet, Split, any_sheet, random_sheet
from cm3.tasks.examples import find_task

if TYPE_CHECKING:
    from cm3.generate import CM3Leon

PLAIN = (
    "text_to_image",
    "unguided",
    "held_out",
    "loose",
    "wishes",
    "image_to_text",
    "text_infill",
    "region_infill",
    "image_tokenizer",
)
"""What pretraining is for. `unguided` repeats the prompts and seeds of `text_to_image` with guidance 1."""
TASKS = (*PLAIN, *RETRIEVAL, *INSTRUCTIONS)
"""Every measurement, in this order."""
TEXTS = ("image_to_text", "text_infill", *(task for task in INSTRUCTIONS if find_task(task).output == "text"))
"""Those that a model answers with words; the others are pictures, which must be large enough to be read."""
_CLOSEST = 0.01
"""Mean squared error in levels below which a reconstruction counts as this close: 68 dB, where rounding ends."""


def evaluate_stickers(
    model: CM3Leon,
    n: int = 500,
    *,
    seed: int = 0,
    batch: int = 32,
    split: Split = "test",
    tasks: Sequence[str] = PLAIN,
    sampling: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    jpeg: int | None = None,
    own_words: bool = False,
) -> dict[str, Any]:
    """Measure a model on `n` sheets for each task of a split that it was not trained on.

    `sampling` goes to every request (guidance, temperature, top_p, ...); without it the model's own recommendation
    holds. `batch` requests are handed over at a time. Where the answer is words, pictures are given as they come back
    from a JPEG file of the quality `jpeg`, if that is given. With `own_words` edits and questions (`vqa2`) come in more
    wordings (cm3/stickers/own_words.py). Returns {"tasks": {name: figures}}. Most have `exact`, the share of cases in
    which all is right, and `exact_1` to `exact_4` of those with so many stickers; the rest are shares too:

        text_to_image    kinds, sizes, places (of the stickers), ground, count, readable (it shows some sheet)
        unguided         the same with guidance 1      held_out   kinds in places where training never showed them
        loose            count, readable; of words that leave sizes, places or the ground open, exact is true to them
        wishes           the same of wishes in many wordings ("two cats", "draw me an owl next to a lion")
        image_to_text    kinds, ground, count, readable (it is a sentence); exact is completely true
        text_infill      the same of the caption with the piece filled in
        region_infill    as text_to_image, and outside_unchanged (no byte outside the box, rounded outwards to whole
                         cells, differs from the picture given)
        image_tokenizer  psnr_db (mean over pictures), exact (pictures that, encoded and decoded, show their sheet
                         still, without a flaw anywhere), stickers (those that are like their kind still, whatever flaw
                         is beside), again (codes that what is drawn of them gives again), all again for kinds held
                         out of training, codes_used (share of the codebook)
        retrieval_0      kinds held out of training, drawn with no document read; _1, _2: with so many. unseen (of those
                         kinds, shown anywhere), found (of those kinds, shown in their size by the documents read)
        instructions     boxes (of those asked for, filled), caption (the picture is true to it), iou (mean intersection
                         over union), explained (the answer and every step to it)

    with n, seed, split, sampling, jpeg, own_words, and `details` by task: `by_kind` (of caption, hidden piece, edit,
    question, ...), the first of what was `missed`, images_per_s. Raises `ConfigError` for an n or batch below 1, an
    unknown task, and tasks that give pictures where a model's are too small to be measured; `RequestError` for
    retrieval without a bank.
    """
    check_run(n, batch, tasks, TASKS)
    pictures = [task for task in tasks if task not in TEXTS]
    if pictures and model.image_size < SMALLEST:
        raise ConfigError(
            f"image_size={model.image_size}: pictures are measured from {SMALLEST} pixels on; leave out "
            f"{', '.join(pictures)}"
        )
    plan = Plan(n, seed, batch, split, dict(sampling or {}), progress, jpeg, own_words)
    # nothing but an edit has a picture to hold on to
    without = {name: value for name, value in plan.sampling.items() if name != "image_guidance"}
    figures: dict[str, dict[str, float]] = {}
    details: dict[str, Any] = {}
    for task in (t for t in TASKS if t in tasks):
        began = time.perf_counter()
        if task == "image_tokenizer":
            figures[task], outcomes = _tokenizer(model, plan)
        else:
            run = run_retrieval if task in RETRIEVAL else run_instruction if task in INSTRUCTIONS else _run
            outcomes = run(model, task, plan if task == "edit" else replace(plan, sampling=without))
            figures[task] = figures_of(outcomes)
        details[task] = details_of(outcomes) | {"images_per_s": n / max(time.perf_counter() - began, 1e-9)}
    return {
        "tasks": figures,
        "n": n,
        "seed": seed,
        "split": split,
        "sampling": plan.sampling,
        "jpeg": jpeg,
        "own_words": own_words,
        "details": details,
    }


def _run(model: CM3Leon, task: str, plan: Plan) -> list[Outcome]:
    settings: Any = plan.sampling
    if task == "unguided":
        settings = {**settings, "guidance": 1.0, "contrast": None}
    every = cases(task, plan.seed, plan.n, "held_out" if task == "held_out" else plan.split, model.image_size)
    outcomes: list[Outcome] = []
    while some := list(islice(every, plan.batch)):
        prompts = [_shown(c.prompt, plan) if task in TEXTS else c.prompt for c in some]
        made = model.generate_many(prompts, seeds=[c.seed for c in some], **settings)
        for case, one in zip(some, made, strict=True):
            if task in TEXTS:
                outcomes.append(judge_text(one.document.text, case.sheet, case.style))
            else:
                outcomes.append(_picture(case, one.document, model.grid))
        plan.tell(task, len(outcomes))
    return outcomes


def _shown(prompt: Document, plan: Plan) -> Document:
    """Return a prompt with its pictures as they are given."""
    return Document(tuple(Image(plan.given(p.pixels)) if isinstance(p, Image) else p for p in prompt.parts))


def _picture(case: Case, made: Document, grid: tuple[int, int]) -> Outcome:
    picture = made.images[-1].pixels if made.images else None
    if case.wish is not None:
        return judge_wish(picture, case.wish)
    outcome = judge_picture(picture, case.caption, case.sheet, case.style)
    if case.prompt.images:
        outcome.shares["outside_unchanged"] = float(_same_outside(picture, case.prompt.images[-1], grid))
    return outcome


def _same_outside(picture: PIL.Image.Image | None, given: Image, grid: tuple[int, int]) -> bool:
    """Tell whether every pixel outside the box, rounded outwards to whole cells, is byte for byte the given
    picture's."""
    if picture is None or picture.mode != given.pixels.mode or picture.size != given.pixels.size or given.gap is None:
        return False
    width, height = picture.size
    high, wide = height // grid[0], width // grid[1]
    x0, y0, x1, y1 = given.gap
    same = np.asarray(picture) == np.asarray(given.pixels)
    same[y0 // high * high : -(-y1 // high) * high, x0 // wide * wide : -(-x1 // wide) * wide] = True
    return bool(same.all())


def _tokenizer(model: CM3Leon, plan: Plan) -> tuple[dict[str, float], list[Outcome]]:
    """Return the figures of the image tokenizer, and the outcome of each picture.

    The share of pictures that show their sheet still bounds what any model over these codes can draw, which the mean
    error alone does not tell.
    """
    rng = np.random.default_rng([plan.seed, 0xE7A1, 0x70CE])
    numbers = [i % len(QUARTERS) + 1 for i in range(plan.n)]
    sheets: list[tuple[str, Sheet]] = [("", random_sheet(rng, plan.split, number)) for number in numbers]
    for number in numbers:
        kinds = [HELD_OUT[k] for k in rng.permutation(len(HELD_OUT))[:number]]
        sheets.append(("held_out_", any_sheet(rng, kinds)))
    values: dict[str, list[float]] = defaultdict(list)
    outcomes: list[Outcome] = []
    used: set[int] = set()
    for start in range(0, len(sheets), plan.batch):
        some = sheets[start : start + plan.batch]
        pictures = [draw(sheet, model.image_size) for _, sheet in some]
        back, codes = model.reconstruct(pictures)
        # Bare pixels: a picture that was drawn remembers its codes.
        _, again = model.reconstruct([PIL.Image.fromarray(np.asarray(picture)) for picture in back])
        for (which, sheet), a, b, cells, others in zip(some, pictures, back, codes, again, strict=True):
            told = compare(read(b), sheet)
            outcomes.append(Outcome(in_words(sheet), told.why, len(sheet.stickers), which.strip("_") or plan.split))
            error = np.asarray(a, dtype=np.float64) - np.asarray(b.convert("RGB"), dtype=np.float64)
            values[f"{which}psnr_db"].append(10 * float(np.log10(255**2 / max(float(np.mean(error**2)), _CLOSEST))))
            values[f"{which}exact"].append(told.exact)
            like = {(one.place, one.kind, one.size) for one in told.reading.seen if not one.problem}
            values[f"{which}stickers"] += [(one.place, one.kind, one.size) in like for one in sheet.stickers]
            values[f"{which}again"].append(float((cells == others).mean()))
            if not which:
                used |= set(np.unique(cells).tolist())
        plan.tell("image_tokenizer", len(outcomes), len(sheets))
    return means(values) | {"codes_used": len(used) / model.image_codes}, outcomes
