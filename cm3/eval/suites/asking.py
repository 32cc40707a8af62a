"""Questions about pictures, answered in a few words: VQA v2, OK-VQA, VizWiz.

Every question of a split is asked once, in the order of the dataset. `predictions.json` is what the owners' servers
take: {question_id, answer}, for VizWiz {image, answer}. `questions.json` and `annotations.json` are the questions that
were asked, as the owners publish them. Of a split whose answers are not published there are no figures: the
predictions are for the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from cm3.eval.suites.suite import Line, Suite, texts
from cm3.eval.text_metrics import vqa_accuracy
from cm3.score.result import Result


class _Questions(Suite):
    """Questions of a reader."""

    takes = frozenset({"protocol"})
    KEY: ClassVar[str] = "question_id"
    """Name of a question's id in meta and in the owners' files."""

    def lines(self) -> Iterator[Line]:
        self.asked: dict[int | str, dict[str, Any]] = {}
        chosen = self.chosen(len(self.documents))
        listed: list[Line] = []
        for done, at in enumerate(chosen, 1):
            if (document := self.read(self.documents[at])) is not None:
                id, question = document.meta[self.KEY], document.meta["question"]
                self.asked[id] = dict(document.meta)
                image = self.pictures.name(document.images[0])
                listed.append(self.asks(at, id, image=image, question=question))
            self.update(done, len(chosen))
        self.check(len(listed))
        yield from listed

    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        made = {record["id"]: texts(record) for record in self.made(records)}
        predictions = [{self.KEY: id, "answer": answer} for id, answer in made.items()]
        self.predictions["answers"] = self.keep("predictions.json", predictions)
        asked = [self.asked[id] for id in made]
        if any("answers" not in one for one in asked):
            self.warnings.append("no answers are published for this split: predictions.json is for the owners' server")
            return self.result(Result({}, len(made)))
        scores = {str(id): vqa_accuracy(made[id], one["answers"]) for id, one in zip(made, asked, strict=True)}
        figures = {"vqa_accuracy": sum(scores.values()) / len(scores)}
        return self.result(Result(figures, len(scores), items={"vqa_accuracy": scores}))


class VqaTwo(_Questions):
    """VQA v2."""

    name, task, kinds = "vqa2", "vqa2", ("vqa2",)


class OutsideKnowledge(_Questions):
    """OK-VQA."""

    name, task, kinds = "okvqa", "okvqa", ("okvqa",)


class Blind(_Questions):
    """VizWiz: a question is known by its picture."""

    name, task, kinds, KEY = "vizwiz", "vizwiz", ("vizwiz",), "image"
