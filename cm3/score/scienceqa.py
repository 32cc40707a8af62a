"""Choices in ScienceQA, Lu et al. 2022, against the right ones, by subject, context, grade and topic.

    predictions   {"results": {"4": 1, "5": 0, ...}}: number of the problem -> number of the option, from 0; -1: none
    problems      problems.json, {"1": {"choices", "answer", "hint", "image", "subject", "topic", "grade", "split"}}

The classes are those of the owners' evaluate_acc.py: a problem with a hint and a picture counts under both, and one
without either as of no context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cm3.errors import DataError
from cm3.score.records import agreed, load
from cm3.score.result import Result

_SUBJECTS = {"natural science": "natural", "social science": "social", "language science": "language"}
_GRADES = {f"grade{number}": "grade_1_6" if number < 7 else "grade_7_12" for number in range(1, 13)}


@dataclass(frozen=True)
class Problem:
    """A problem: the number of its right option, how many there are, and the classes that it is of."""

    answer: int
    choices: int
    classes: tuple[str, ...]


def score_scienceqa(predictions: Mapping[str, int], problems: Mapping[str, Problem]) -> Result:
    """Score the chosen option of each problem, by id.

    Figures are in percent, by the names that the owners' script prints: `average`, subjects, contexts, grades, topics.
    Problems without a prediction are left out, and counted in a warning. Raises `DataError` for predictions of no
    problem.
    """
    agreed(predictions, problems, "scienceqa", "predictions", "problems")
    items: dict[str, dict[str, float]] = {"average": {}}
    for id, problem in problems.items():
        if id in predictions:
            right = 100.0 * (predictions[id] == problem.answer)
            for name in ("average", *problem.classes):
                items.setdefault(name, {})[id] = right
    warnings = []
    if lacking := [id for id in problems if id not in predictions]:
        warnings.append(
            f"{len(lacking)} of {len(problems)} problems have no prediction, the first {lacking[0]!r:.40}; the figures "
            "are of the others"
        )
    if outside := [id for id in items["average"] if not 0 <= predictions[id] < problems[id].choices]:
        warnings.append(
            f"{len(outside)} predictions name no option, the first of {outside[0]!r:.40}; they count as wrong"
        )
    figures = {name: sum(values.values()) / len(values) for name, values in items.items()}
    return Result(figures, len(items["average"]), {}, tuple(warnings), items)


def read_choices(path: Path) -> dict[str, int]:
    """Return the numbers of the chosen options by id. Raises `DataError` for a file that is not laid out so."""
    page = load(path)
    results = page.get("results", page) if isinstance(page, dict) else page
    if not isinstance(results, dict):
        raise DataError(f"{str(path)!r}: holds no predictions; give {{'results': {{problem: option}}}}")
    found = {}
    for id, value in results.items():
        try:
            if isinstance(value, bool | float):
                raise ValueError
            found[id] = int(value)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{str(path)!r}, problem {id!r:.40}: {value!r:.60} is no number of an option; give 0 for the first, -1 "
                "for none"
            ) from error
    return found


def read_problems(path: Path, split: str) -> dict[str, Problem]:
    """Return the problems of a split by id.

    Raises `DataError` for a file that is not laid out so, or has none of it.
    """
    page = load(path)
    if not isinstance(page, dict) or not page:
        raise DataError(f"{str(path)!r}: holds no problems; give the dataset's problems.json")
    splits = {str(problem.get("split")) for problem in page.values() if isinstance(problem, dict)}
    found = {id: _problem(one, f"{str(path)!r}, problem {id!r:.40}") for id, one in page.items() if _of(one, split)}
    if not found:
        raise DataError(f"{str(path)!r}: has no problem of split {split!r:.40}; it has {', '.join(sorted(splits))}")
    return found


def _of(problem: Any, split: str) -> bool:
    return not isinstance(problem, dict) or problem.get("split") == split


def _problem(record: Any, where: str) -> Problem:
    answer, choices = (record.get(name) if isinstance(record, dict) else None for name in ("answer", "choices"))
    if not isinstance(choices, list) or isinstance(answer, bool) or not isinstance(answer, int):
        raise DataError(f"{where}: must have 'choices', a list, and 'answer', the number of the right one")
    if not 0 <= answer < len(choices):
        raise DataError(f"{where}: 'answer' is {answer}, must be 0 to {len(choices) - 1}")
    for name in ("subject", "grade", "topic"):
        if not isinstance(record.get(name), str | None):
            raise DataError(f"{where}: {name!r} is {record[name]!r:.60}, must be a text")
    hint, image = bool(record.get("hint")), bool(record.get("image"))
    contexts = {"has_text": hint, "has_image": image, "no_context": not hint and not image}
    classes = [name for name, holds in contexts.items() if holds]
    named = (_SUBJECTS.get(record.get("subject")), _GRADES.get(record.get("grade")), record.get("topic"))
    return Problem(answer, len(choices), (*classes, *(name for name in named if isinstance(name, str))))
