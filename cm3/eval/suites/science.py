"""ScienceQA: the problems of a split that have a picture, as the paper tunes on them, each asked once in its order.

`predictions.json` is {"results": {problem: number of the chosen option}}, -1 where the answer names none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cm3.eval.real_tasks import letter
from cm3.eval.suites.suite import Line, Suite, texts
from cm3.read.questions import LETTERS
from cm3.score.result import Result


class Science(Suite):
    """ScienceQA."""

    name, task, kinds = "scienceqa", "scienceqa", ("scienceqa",)

    def lines(self) -> Iterator[Line]:
        self.problems: dict[str, dict[str, Any]] = {}
        found: list[tuple[str, dict[str, Any]]] = []
        for at in range(len(self.documents)):
            document = self.read(self.documents[at])
            if document is not None and document.images:
                about = document.meta
                request = {"question": about["question"], "choices": about["choices"]}
                request |= {"context": about["hint"]} if about["hint"].strip() else {}
                found.append((document.id, {"image": self.pictures.name(document.images[0]), **request}))
                self.problems[document.id] = dict(about)
            self.update(at + 1, len(self.documents))
        self.check(len(found))
        for number in self.chosen(len(found)):
            id, request = found[number]
            yield self.asks(number, id, **request)

    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        made = {record["id"]: texts(record) for record in self.made(records)}
        chosen = {id: _number(answer, len(self.problems[id]["choices"])) for id, answer in made.items()}
        self.predictions["answers"] = self.keep("predictions.json", {"results": chosen})
        right = {id: self.problems[id]["answer"] for id in made}
        self.references["answers"] = self.keep("references.json", {"results": right})
        items = {id: float(chosen[id] == right[id]) for id in made}
        none = sum(one < 0 for one in chosen.values())
        figures = {"accuracy": sum(items.values()) / len(items)}
        settings = {"problems": "with a picture", "answers_of_no_option": none}
        return self.result(Result(figures, len(items), settings, items={"accuracy": items}))


def _number(answer: str, choices: int) -> int:
    """Return which option an answer names by its letter, -1 for none."""
    found = letter(answer)
    at = LETTERS.index(found) if found else choices
    return at if at < choices else -1
