"""Visual Dialog: the 100 candidate answers of each question, ranked by the log-probability that the model gives them.

The model reads picture, caption, the turns before and the question, and each candidate is scored as the answer with the
token that ends it; nothing is drawn and no length is divided by. Every turn of a split is asked once, of the test split
the last. `predictions.json` is what the owners' server takes: {image_id, round_id, ranks}. MRR, recall and the mean
rank are of all turns; NDCG is of the turns whose candidates people weighed, visdial_1.0_val_dense_annotations.json.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from cm3.errors import DataError
from cm3.eval.suites.suite import Line, Suite
from cm3.files import is_number
from cm3.read.base import field
from cm3.read.published import load
from cm3.read.questions import VisDial
from cm3.score.result import Result

RANKED = "sum of the log-probabilities of an answer's tokens and of the one that ends it"
OPTIONS = 100
"""Candidates of each question."""


class _Turn(NamedTuple):
    """Candidates of a turn, by number of answer, and which of them is right, -1 where that is not published."""

    options: array[int]
    right: int


class Dialog(Suite):
    """Visual Dialog 1.0."""

    name, task, kinds = "visdial", "visdial", ("visdial",)

    def lines(self) -> Iterator[Line]:
        reader = cast(VisDial, self.reader)
        dialogs = field(
            field(load(reader.root / reader.file, _kept), "data", dict, reader.file), "dialogs", list, "data"
        )
        self.turns: dict[str, tuple[int, int, _Turn]] = {}
        chosen = self.chosen(len(reader))
        listed: list[Line] = []
        for done, at in enumerate(chosen, 1):
            if (document := self.read(self.documents[at])) is not None:
                try:
                    image = self.pictures.name(document.images[0])
                    listed += self._asked(at, image, document.meta, dialogs[at]["dialog"], reader)
                except DataError as error:
                    self.leave_out(document.id, str(error))
            self.update(done, len(chosen))
        self.check(len(listed))
        yield from listed

    def _asked(self, at: int, image: str, about: Any, turns: list[Any], reader: VisDial) -> list[Line]:
        lines: list[Line] = []
        before: list[list[str]] = []
        for number, (question, answer) in enumerate(about["dialog"], 1):
            turn = turns[number - 1]
            if isinstance(turn, _Turn):
                options = [_text(reader.answers, one, f"dialog {at}, turn {number}") for one in turn.options]
                id = f"{about['image_id']}:{number}"
                self.turns[id] = about["image_id"], number, turn
                request = {"image": image, "caption": about["caption"], "turns": list(before), "question": question}
                lines.append({**self.asks(at, id, **request), "options": options})
            elif answer is not None and reader.split != "test":
                raise DataError(
                    f"dialog {at}, turn {number}: has no {OPTIONS} 'answer_options' and no 'gt_index' among them; "
                    "download the file again"
                )
            if answer is not None:
                before.append([question, answer])
        return lines

    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        ranked: dict[str, list[int]] = {}
        for record in self.made(records):
            order = np.argsort(-np.asarray(record["options"]), kind="stable")
            found = np.empty(len(order), np.int64)
            found[order] = np.arange(1, len(order) + 1)
            ranked[record["id"]] = found.tolist()
        rows = [{"image_id": self.turns[id][0], "round_id": self.turns[id][1], "ranks": r} for id, r in ranked.items()]
        self.predictions["ranks"] = self.keep("predictions.json", rows)
        right = {id: self.turns[id][2].right for id in ranked}
        if min(right.values()) < 0:
            self.warnings.append("no answers are published for this split: predictions.json is for the owners' server")
            return self.result(Result({}, len(ranked), {"ranked_by": RANKED}))
        self.references["right"] = self.keep("references.json", right)
        items = {name: dict[str, float]() for name in ("mrr", "r@1", "r@5", "r@10", "mean_rank")}
        for id, ranks in ranked.items():
            rank = ranks[right[id]]
            items["mrr"][id], items["mean_rank"][id] = 1 / rank, float(rank)
            for k in (1, 5, 10):
                items[f"r@{k}"][id] = float(rank <= k)
        if weights := self._weights():
            items["ndcg"] = {id: ndcg(ranked[id], weights[id]) for id in ranked if id in weights}
        figures = {name: sum(one.values()) / len(one) for name, one in items.items() if one}
        return self.result(Result(figures, len(ranked), {"ranked_by": RANKED}, items={n: items[n] for n in figures}))

    def _weights(self) -> dict[str, list[float]]:
        """Return how relevant people found each candidate, by turn; nothing, said, where that is not there."""
        reader = cast(VisDial, self.reader)
        path = reader.root / f"visdial_1.0_{reader.split}_dense_annotations.json"
        if not path.is_file():
            self.warnings.append(f"{path.name} is not beside the dialogs, so there is no NDCG")
            return {}
        self.references["relevance"] = path
        found: dict[str, list[float]] = {}
        rows = load(path)
        for at, row in enumerate(rows if isinstance(rows, list) else ()):
            where = f"{path.name}: record {at}"
            weights = row.get("gt_relevance", row.get("relevance")) if isinstance(row, dict) else None
            numbers = isinstance(weights, list) and len(weights) == OPTIONS
            if not numbers or not all(is_number(one) and one >= 0 for one in cast("list[float]", weights)):
                raise DataError(f"{where}: 'gt_relevance' must be {OPTIONS} numbers that are not below 0")
            id = f"{field(row, 'image_id', int, where)}:{field(row, 'round_id', int, where)}"
            found[id] = [float(one) for one in cast("list[float]", weights)]
        if not found:
            raise DataError(f"{path.name}: is no list of dense annotations; download it again")
        return found


def ndcg(ranks: Sequence[int], relevance: Sequence[float]) -> float:
    """Return the normalised discounted gain of a ranking, 0..1, down to as many places as candidates are relevant.

    `ranks`: of each candidate, from 1. Where none is relevant it is 0.
    """
    gains = np.asarray(relevance, np.float64)
    deep = int((gains > 0).sum())
    off = 1 / np.log2(np.arange(2, deep + 2))
    best = float((np.sort(gains)[::-1][:deep] * off).sum())
    return float((gains[np.argsort(ranks, kind="stable")][:deep] * off).sum()) / best if deep else 0.0


def _kept(value: dict[str, Any]) -> Any:
    """Keep of a turn its candidates as soon as it is read, and of the file no questions and answers."""
    if "answer_options" in value:
        options, right = value["answer_options"], value.get("gt_index", -1)
        whole = isinstance(options, list) and len(options) == OPTIONS and all(type(one) is int for one in options)
        if whole and min(options) >= 0 and type(right) is int and -1 <= right < OPTIONS:
            return _Turn(array("I", options), right)
    return {name: one for name, one in value.items() if name not in ("questions", "answers")}


def _text(answers: list[Any], number: int, where: str) -> str:
    if number >= len(answers) or not isinstance(answers[number], str) or not answers[number].strip():
        raise DataError(f"{where}: candidate {number} is no text of the {len(answers)} 'answers' of the file")
    return str(answers[number]).strip()
