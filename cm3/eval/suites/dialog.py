"""Visual Dialog: the 100 candidate answers of each question, ranked by the log-probability that the model gives them.

The model reads picture, caption, the turns before and the question, and each candidate is scored as the answer with the
token that ends it; nothing is drawn and no length is divided by. Every turn of a split is asked once, of the test split
the last. `predictions.json` is what the owners' server takes: {image_id, round_id, ranks}. MRR, recall and the mean
rank are of all turns; NDCG is of the turns whose candidates people weighed, visdial_1.0_val_dense_annotations.json.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import numpy as np

from cm3.errors import DataError
from cm3.eval.suites.suite import Line, Suite
from cm3.read.base import field
from cm3.read.published import load
from cm3.read.questions import VisDial
from cm3.score.result import Result
from cm3.score.visdial import read_annotations, score_visdial

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
        reader = cast(VisDial, self.reader)
        self.references["dialogs"] = dialogs = reader.root / reader.file
        right = {id: self.turns[id][2].right for id in ranked}
        if min(right.values()) < 0:
            self.warnings.append("no answers are published for this split: predictions.json is for the owners' server")
            return self.result(Result({}, len(ranked)), ranked_by=RANKED)
        relevance = None
        dense = reader.root / f"{dialogs.stem}_dense_annotations.json"
        if dense.is_file():
            self.references["relevance"] = dense
            every = read_annotations(dense)[1] or {}
            relevance = {id: weights for id, weights in every.items() if id in ranked}
        if not relevance:
            self.warnings.append(f"{dense.name} has nothing of these dialogs, so there is no NDCG")
        return self.result(score_visdial(ranked, right, relevance or None), ranked_by=RANKED)


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
