"""ScienceQA: the problems of a split that have a picture, as the paper tunes on them, each asked once in its order.

`predictions.json` is {"results": {problem: number of the chosen option}}, -1 where the answer names none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from cm3.eval.real_tasks import letter
from cm3.eval.suites.suite import Line, Suite, texts
from cm3.read.questions import LETTERS, ScienceQa
from cm3.score.result import Result
from cm3.score.scienceqa import read_problems, score_scienceqa


class Science(Suite):
    """ScienceQA."""

    name, task, kinds = "scienceqa", "scienceqa", ("scienceqa",)

    def lines(self) -> Iterator[Line]:
        self.choices: dict[str, int] = {}
        found: list[tuple[str, dict[str, Any]]] = []
        for at in range(len(self.documents)):
            document = self.read(self.documents[at])
            if document is not None and document.images:
                about = document.meta
                request = {"question": about["question"], "choices": about["choices"]}
                request |= {"context": about["hint"]} if about["hint"].strip() else {}
                found.append((document.id, {"image": self.pictures.name(document.images[0]), **request}))
                self.choices[document.id] = len(about["choices"])
            self.update(at + 1, len(self.documents))
        self.check(len(found))
        for number in self.chosen(len(found)):
            id, request = found[number]
            yield self.asks(number, id, **request)

    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        made = {record["id"]: texts(record) for record in self.made(records)}
        chosen = {id: _number(answer, self.choices[id]) for id, answer in made.items()}
        self.predictions["answers"] = self.keep("predictions.json", {"results": chosen})
        path = cast(ScienceQa, self.reader).root / "problems.json"
        self.references["problems"] = path
        splits = {cast(ScienceQa, self.reader).problems[id]["split"] for id in made}
        known = {id: one for split in sorted(splits) for id, one in read_problems(path, split).items()}
        scored = score_scienceqa(chosen, {id: known[id] for id in made})
        return self.result(scored, problems="with a picture")


def _number(answer: str, choices: int) -> int:
    """Return which option an answer names by its letter, -1 for none."""
    found = letter(answer)
    at = LETTERS.index(found) if found else choices
    return at if at < choices else -1
