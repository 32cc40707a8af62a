"""The use of retrieval, measured: kinds that no training saw, drawn with and without their documents.

A prompt names held-out kinds, and documents of the model's memory bank show them. Without a document a model has never
seen one. Prompts and seeds are the same whatever number of documents is read.

    one      a held-out kind alone               beside   a held-out kind and one to three that training showed
    two      two held-out kinds: with one document, one of them can be right at most
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cm3.document import Document
from cm3.errors import DataError
from cm3.stickers.eval.sticker_judges import Outcome, Plan, judge_picture
from cm3.stickers.sentences import describe, parse
from cm3.stickers.verify import read
from cm3.stickers.world import HELD_OUT, Sheet, any_sheet, random_kind

if TYPE_CHECKING:
    from cm3.generate import CM3Leon, Retrieved

RETRIEVAL = ("retrieval_0", "retrieval_1", "retrieval_2")
"""By the number of documents that are read."""
_MIXED = ("one", "beside", "two")


@dataclass(frozen=True)
class Unseen:
    """A prompt that names held-out kinds, the seed of its picture, the sheet, and how the kinds are mixed."""

    prompt: str
    seed: int
    sheet: Sheet
    mixed: str

    @property
    def kinds(self) -> tuple[tuple[str, str], ...]:
        """Return the held-out kinds, each with its size."""
        return tuple((s.kind, s.size) for s in self.sheet.stickers if s.kind in HELD_OUT)


def unseen(seed: int, number: int) -> Unseen:
    """Return case `number`; the three ways to mix kinds take turns."""
    rng, mixed = np.random.default_rng([seed, 0xE7A1, 0x4E7, number]), _MIXED[number % len(_MIXED)]
    kinds = [HELD_OUT[i] for i in rng.permutation(len(HELD_OUT))[: 1 + (mixed == "two")]]
    if mixed == "beside":
        kinds += [random_kind(rng) for _ in range(int(rng.integers(1, 4)))]
    sheet = any_sheet(rng, kinds)
    return Unseen(describe(sheet, rng, in_order=rng.random() < 0.5), int(rng.integers(2**31)), sheet, mixed)


def run_retrieval(model: CM3Leon, task: str, plan: Plan) -> list[Outcome]:
    """Return the outcomes of a task. Raises `RequestError` for a model without a bank, where documents are read."""
    k, settings = int(task.rsplit("_", 1)[1]), dict[str, Any](plan.sampling)
    outcomes: list[Outcome] = []
    for start in range(0, plan.n, plan.batch):
        some = [unseen(plan.seed, i) for i in range(start, min(start + plan.batch, plan.n))]
        found: list[list[Retrieved]] = [model.retrieve(case.prompt, k) if k else [] for case in some]
        made = model.generate_many([c.prompt for c in some], seeds=[c.seed for c in some], documents=found, **settings)
        for case, one, documents in zip(some, made, found, strict=True):
            images = one.document.images
            outcomes.append(judge_unseen(case, images[-1].pixels if images else None, [d.document for d in documents]))
        plan.tell(task, len(outcomes))
    return outcomes


def judge_unseen(case: Unseen, picture: Any, documents: Sequence[Document]) -> Outcome:
    """Judge a picture (None: none was made) and the documents that were read for it."""
    outcome = judge_picture(picture, case.prompt, case.sheet)
    seen = set() if picture is None else {one.kind for one in read(picture).seen if not one.problem}
    shares = {**outcome.shares, "unseen": float(np.mean([kind in seen for kind, _ in case.kinds]))}
    if documents:
        there = {shown for document in documents for shown in _shows(document)}
        shares["found"] = float(np.mean([kind in there for kind in case.kinds]))
    return Outcome(case.prompt, outcome.why, outcome.number, case.mixed, shares)


def _shows(document: Document) -> list[tuple[str | None, str | None]]:
    try:
        return [(mention.kind, mention.size) for mention in parse(document.text).mentions]
    except DataError:  # a document of something else
        return []
