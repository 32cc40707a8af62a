"""The scorer of unseen kinds: who draws what the documents show, and nothing else, scores what was found."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_stickers

from cm3.document import Document
from cm3.errors import RequestError
from cm3.generate import CM3Leon, Retrieved
from cm3.stickers.drawing import draw
from cm3.stickers.eval.retrieval_scores import RETRIEVAL, unseen
from cm3.stickers.eval.sticker_scores import evaluate_stickers
from cm3.stickers.sentences import parse
from cm3.stickers.world import HELD_OUT, Sheet, Sticker, split_of

N, SEED = 12, 4


class Reader:
    """Finds the documents of the first held-out kinds, and draws those kinds right that a document shows."""

    image_size = 256

    def __init__(self) -> None:
        self.sheets = {case.prompt: case.sheet for case in (unseen(SEED, i) for i in range(N))}
        self.read: list[list[int]] = []

    def retrieve(self, prompt: str, k: int) -> list[Retrieved]:
        kinds = [s for s in self.sheets[prompt].stickers if s.kind in HELD_OUT]
        # the second document of one kind alone is of something else
        sheets = [Sheet("sky", (Sticker("middle", s.kind, s.size),)) for s in kinds]
        found = [Document.of(f"a {s.stickers[0].size} {s.stickers[0].kind}", draw(s)) for s in sheets]
        return [Retrieved(d, 1.0, "text") for d in (*found, Document.of("no sentence of this world"))][:k]

    def generate_many(self, prompts: Sequence[str], *, seeds: Sequence[int], documents: Any, **given: Any) -> list[Any]:
        assert len(prompts) == len(seeds) == len(documents) and not given
        self.read.append([len(some) for some in documents])
        made = []
        for prompt, some in zip(prompts, documents, strict=True):
            texts = " ".join(d.document.text for d in some)
            sheet = self.sheets[prompt]
            drawn = [s if s.kind in texts or s.kind not in HELD_OUT else Sticker(s.place, "taxi", s.size)
                     for s in sheet.stickers]  # fmt: skip
            made.append(SimpleNamespace(document=Document.of(prompt, draw(Sheet(sheet.ground, tuple(drawn))))))
        return made


def test_what_a_document_shows_is_right_and_the_rest_is_not() -> None:
    model: Any = Reader()
    report = evaluate_stickers(model, N, seed=SEED, batch=5, tasks=RETRIEVAL)
    none, one, two = (report["tasks"][task] for task in RETRIEVAL)
    assert (none["exact"], none["unseen"]) == (0, 0) and "found" not in none
    by_kind = report["details"]["retrieval_1"]["by_kind"]
    assert by_kind == {"beside": 1, "one": 1, "two": 0} and one["exact"] == pytest.approx(2 / 3)
    # of two kinds, one was found
    assert one["unseen"] == one["found"] == pytest.approx(5 / 6)
    assert (two["exact"], two["unseen"], two["found"]) == (1, 1, 1)
    assert model.read == [[k] * some for k in (0, 1, 2) for some in (5, 5, 2)]
    assert any("taxi, not" in missed["why"] for missed in report["details"]["retrieval_0"]["missed"])


def test_cases_name_kinds_that_no_training_shows() -> None:
    for i in range(30):
        case = unseen(0, i)
        kinds = [s.kind for s in case.sheet.stickers]
        assert split_of(case.sheet) is None and len(parse(case.prompt).mentions) == len(kinds)
        number = sum(kind in HELD_OUT for kind in kinds)
        assert number == len(case.kinds) == (2 if case.mixed == "two" else 1)
        assert (len(kinds) > number) == (case.mixed == "beside")


def test_a_model_is_asked_as_a_user_asks_and_one_without_a_bank_is_refused() -> None:
    model = CM3Leon(tiny_stickers.bundle())
    report = evaluate_stickers(model, 3, seed=0, tasks=RETRIEVAL, sampling={"guidance": 1.0, "image_guidance": 1.5})
    assert list(report["tasks"]) == list(RETRIEVAL)
    assert all(figures["exact"] == 0 and figures["unseen"] < 1 for figures in report["tasks"].values())
    assert 0 <= report["tasks"]["retrieval_1"]["found"] <= report["tasks"]["retrieval_2"]["found"]
    with pytest.raises(RequestError, match="memory bank"):
        evaluate_stickers(CM3Leon(tiny_stickers.bundle(bank=False)), 1, tasks=["retrieval_1"])
