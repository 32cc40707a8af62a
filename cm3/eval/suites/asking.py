"""Questions about pictures, answered in a few words: VQA v2, OK-VQA, VizWiz.

Every question of a split is asked once, in the order of the dataset. `predictions.json` is what the owners' servers
take: {question_id, answer}, for VizWiz {image, answer}; the references are their own files. Of a split whose answers
are not published there are no figures: the predictions are for the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, cast

from cm3.errors import ConfigError
from cm3.eval.suites.suite import Line, Suite, texts
from cm3.read.questions import CocoQuestions, VizWiz
from cm3.score.result import Result
from cm3.score.vqa import PROTOCOLS, read_questions, score_vqa


class _Questions(Suite):
    """Questions of a reader."""

    takes = frozenset({"protocol"})
    KEY: ClassVar[str] = "question_id"
    """Name of a question's id in meta and in the owners' files."""

    def lines(self) -> Iterator[Line]:
        if self.asking.protocol not in (None, *PROTOCOLS):
            raise ConfigError(f"protocol={self.asking.protocol!r}: must be one of {', '.join(PROTOCOLS)}")
        self.answered = False
        chosen = self.chosen(len(self.documents))
        listed: list[Line] = []
        for done, at in enumerate(chosen, 1):
            if (document := self.read(self.documents[at])) is not None:
                id, question = document.meta[self.KEY], document.meta["question"]
                self.answered = "answers" in document.meta
                image = self.pictures.name(document.images[0])
                listed.append(self.asks(at, id, image=image, question=question))
            self.update(done, len(chosen))
        self.check(len(listed))
        yield from listed

    def score(self, records: Iterable[dict[str, Any]]) -> Result:
        made = {record["id"]: texts(record) for record in self.made(records)}
        predictions = [{self.KEY: id, "answer": answer} for id, answer in made.items()]
        self.predictions["answers"] = self.keep("predictions.json", predictions)
        questions, annotations = cast(CocoQuestions | VizWiz, self.reader).published
        self.references["questions"] = questions
        if not self.answered:
            self.warnings.append("no answers are published for this split: predictions.json is for the owners' server")
            return self.result(Result({}, len(made)))
        self.references["annotations"] = annotations
        known = read_questions(questions, annotations)
        answers = {str(id): answer for id, answer in made.items()}
        return self.result(score_vqa(answers, {id: known[id] for id in answers}, self.asking.protocol or PROTOCOLS[0]))


class VqaTwo(_Questions):
    """VQA v2."""

    name, task, kinds = "vqa2", "vqa2", ("vqa2",)


class OutsideKnowledge(_Questions):
    """OK-VQA."""

    name, task, kinds = "okvqa", "okvqa", ("okvqa",)


class Blind(_Questions):
    """VizWiz: a question is known by its picture."""

    name, task, kinds, KEY = "vizwiz", "vizwiz", ("vizwiz",), "image"
