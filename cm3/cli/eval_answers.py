"""`cm3 eval vqa`, `scienceqa` and `visdial`: answers made anywhere against those of people."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from cm3.cli.options import Verb
from cm3.cli.results import check_result_file, keep, lines
from cm3.errors import RequestError

if TYPE_CHECKING:
    from cm3.score.result import Result

VERSION = 1
"""Of each of them; it rises whenever the same predictions would get another figure."""


@dataclass(frozen=True, kw_only=True)
class Scored(Verb):
    """Base of the verbs here."""

    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the result here, JSON."""

    def result(self) -> tuple[str, Result, Mapping[str, Path], Path]:
        """Return the suite, the result, the files of references by name, and that of predictions."""
        raise NotImplementedError

    def run(self) -> dict[str, Any]:
        """Score, print the figures."""
        check_result_file(self.out)
        began = time.perf_counter()
        suite, result, references, predictions = self.result()
        page = keep(self.out, result, suite, VERSION, references, {"answers": predictions}, began)
        told = "".join(f", {name} {value}" for name, value in result.settings.items())
        print(f"{suite}: {result.n} answers{told}", *lines(page), sep="\n")
        return page


@dataclass(frozen=True, kw_only=True)
class EvalVqa(Scored):
    """Score answers to questions about pictures by VQA accuracy, in percent: all, by type of question and of answer.

    Files are those of VQA v2, OK-VQA and VizWiz. `official` is the script of VQA's owners with all its ways, of which
    the docstring of cm3.score.vqa tells; `always-normalise` is what lmms-eval does since 2025. They differ by a few
    points, and figures of different protocols are not comparable.

    examples:
      cm3 eval vqa answers.json v2_OpenEnded_mscoco_val2014_questions.json v2_mscoco_val2014_annotations.json
      cm3 eval vqa answers.json Annotations/val.json Annotations/val.json --protocol always-normalise --out result.json
    """

    predictions: Annotated[Positional[Path], arg(metavar="PREDICTIONS")]
    """Answers, [{question_id, answer}, ...]; VizWiz: [{image, answer}, ...]."""
    questions: Annotated[Positional[Path], arg(metavar="QUESTIONS")]
    """File of the questions; VizWiz: the file of annotations."""
    annotations: Annotated[Positional[Path], arg(metavar="ANNOTATIONS")]
    """File of what people answered."""
    protocol: Annotated[Literal["official", "always-normalise"], arg(metavar="official|always-normalise")] = "official"
    """How answers are compared."""

    def result(self) -> tuple[str, Result, Mapping[str, Path], Path]:
        from cm3.score.vqa import read_answers, read_questions, score_vqa

        asked = read_questions(self.questions, self.annotations)
        result = score_vqa(read_answers(self.predictions), asked, self.protocol)
        files = {"questions": self.questions, "annotations": self.annotations}
        return "vqa", result, files, self.predictions


@dataclass(frozen=True, kw_only=True)
class EvalScienceqa(Scored):
    """Score choices in ScienceQA, in percent: all, by subject, context, grade and topic, as the dataset's own script.

    examples:
      cm3 eval scienceqa choices.json data/scienceqa/problems.json
      cm3 eval scienceqa choices.json data/scienceqa/problems.json --split val --out result.json
    """

    predictions: Annotated[Positional[Path], arg(metavar="PREDICTIONS")]
    """Choices, {"results": {problem: number of the option from 0, or -1}}."""
    problems: Annotated[Positional[Path], arg(metavar="PROBLEMS")]
    """The dataset's problems.json."""
    split: Annotated[str, arg(metavar="SPLIT")] = "test"
    """Split of the problems."""

    def result(self) -> tuple[str, Result, Mapping[str, Path], Path]:
        from cm3.score.scienceqa import read_choices, read_problems, score_scienceqa

        result = score_scienceqa(read_choices(self.predictions), read_problems(self.problems, self.split))
        return "scienceqa", result, {"problems": self.problems}, self.predictions


@dataclass(frozen=True, kw_only=True)
class EvalVisdial(Scored):
    """Score ranked answers of Visual Dialog as the challenge does: MRR, recall at 1, 5, 10, mean rank; NDCG.

    The first four need the dialogs of a split with answers, NDCG its dense annotations; give either or both.

    examples:
      cm3 eval visdial ranks.json visdial_1.0_val_dense_annotations.json
      cm3 eval visdial ranks.json visdial_1.0_val.json visdial_1.0_val_dense_annotations.json --out result.json
    """

    predictions: Annotated[Positional[Path], arg(metavar="PREDICTIONS")]
    """Ranks, [{image_id, round_id, ranks}, ...], as the challenge's server takes them."""
    annotations: Annotated[Positional[tuple[Path, ...]], arg(metavar="ANNOTATIONS...")]
    """Dialogs of train or val, or dense annotations."""

    def result(self) -> tuple[str, Result, Mapping[str, Path], Path]:
        from cm3.score.visdial import read_annotations, read_ranks, score_visdial

        found: dict[str, Any] = {}
        files: dict[str, Path] = {}
        for path in self.annotations:
            for name, values in zip(("right", "relevance"), read_annotations(path), strict=True):
                if values is not None:
                    if name in found:
                        raise RequestError(f"{path}: is the second file of its kind; give one of each")
                    found[name], files[name] = values, path
        if not found:
            raise RequestError("no ANNOTATIONS given; name the dialogs, or their dense annotations")
        return "visdial", score_visdial(read_ranks(self.predictions), **found), files, self.predictions
