"""Ranked answers of Visual Dialog, Das et al. 2017: MRR, recall and mean rank of the right one, NDCG by relevance.

    predictions   [{"image_id": 185565, "round_id": 1, "ranks": [76, 1, ...]}, ...]: the rank, from 1, of each of the
                  100 candidates of a round; rounds count from 1
    annotations   visdial_1.0_val.json {"data": {"dialogs": [{"image_id", "dialog": [{"gt_index"}, ...]}, ...]}}
                  visdial_1.0_val_dense_annotations.json [{"image_id", "round_id", "gt_relevance": [0.0, ...]}, ...]

As the challenge's starter code and server compute them. NDCG is cut at as many candidates as have a relevance above 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cm3.errors import DataError
from cm3.score.records import agreed, identity, listed, load
from cm3.score.result import Result

RECALLS = (1, 5, 10)


def score_visdial(
    predictions: Mapping[str, Sequence[int]],
    right: Mapping[str, int] | None = None,
    relevance: Mapping[str, Sequence[float]] | None = None,
) -> Result:
    """Score the ranks of the candidates of each round, by id `IMAGE:ROUND`.

    `right`: round -> number of its right candidate, for mrr, r@1, r@5, r@10 (0..1) and mean_rank. `relevance`: round ->
    relevance of each candidate, for ndcg (0..1). Rounds without a prediction are counted in a warning. Raises
    `DataError` for ranks that are not each number from 1 once, for predictions of no round of the dialogs, or where
    there are none, of no round with relevances, and where numbers of candidates differ.
    """
    # People weighed the candidates of one round of each dialog: ranks of the others are no error.
    weighed = relevance if right is None else None
    asked = predictions if weighed is None else [id for id in predictions if id in weighed] or predictions
    agreed(asked, right or relevance or (), "visdial", "predictions", "rounds")
    for id, ranks in predictions.items():
        if sorted(ranks) != list(range(1, len(ranks) + 1)):
            raise DataError(
                f"visdial, round {id!r:.40}: 'ranks' must be the numbers 1 to {len(ranks)}, each once; give the rank "
                "of each candidate"
            )
    warnings: list[str] = []
    items: dict[str, dict[str, float]] = {}
    if right is not None:
        items = {name: {} for name in ("mrr", *(f"r@{k}" for k in RECALLS), "mean_rank")}
        for id in _shared(predictions, right, "of the dialogs", warnings):
            if not 0 <= right[id] < len(predictions[id]):
                raise DataError(
                    f"visdial, round {id!r:.40}: 'gt_index' is {right[id]}, must be 0 to {len(predictions[id]) - 1}"
                )
            rank = predictions[id][right[id]]
            items["mrr"][id], items["mean_rank"][id] = 1 / rank, float(rank)
            for k in RECALLS:
                items[f"r@{k}"][id] = float(rank <= k)
    if relevance is not None:
        shared = _shared(predictions, relevance, "with relevances", warnings)
        if flat := [id for id in shared if not any(relevance[id])]:
            warnings.append(
                f"{len(flat)} rounds have no relevant candidate, the first {flat[0]!r:.40}; NDCG leaves them out"
            )
        items["ndcg"] = {id: ndcg(predictions[id], relevance[id]) for id in shared if any(relevance[id])}
    items = {name: values for name, values in items.items() if values}
    if not items:
        raise DataError(f"visdial: nothing can be scored ({warnings[-1]}); give rounds with a relevant candidate")
    figures = {name: sum(values.values()) / len(values) for name, values in items.items()}
    return Result(figures, max(map(len, items.values()), default=0), {}, tuple(warnings), items)


def _shared(predictions: Mapping[str, Any], rounds: Mapping[str, Any], which: str, warnings: list[str]) -> list[str]:
    """Return the rounds that have a prediction; those that have none are noted in `warnings`."""
    if lacking := [id for id in rounds if id not in predictions]:
        warnings.append(
            f"{len(lacking)} of {len(rounds)} rounds {which} have no prediction, the first {lacking[0]!r:.40}; the "
            "figures are of the others"
        )
    return [id for id in rounds if id in predictions]


def ndcg(ranks: Sequence[int], relevance: Sequence[float]) -> float:
    """Return the NDCG of a round, 0..1: candidates with a relevance above 0 are k, and the first k places count.

    Raises `DataError` for another number of relevances than ranks, and for none above 0.
    """
    if len(ranks) != len(relevance) or not any(relevance):
        raise DataError(f"visdial: {len(relevance)} relevances for {len(ranks)} ranks; give one for each, one above 0")
    k = sum(value != 0 for value in relevance)
    placed = [relevance[at] for at in sorted(range(len(ranks)), key=ranks.__getitem__)[:k]]
    return _gain(placed) / _gain(sorted(relevance, reverse=True)[:k])


def _gain(values: Sequence[float]) -> float:
    return sum(value / math.log2(place + 2) for place, value in enumerate(values))


def read_ranks(path: Path) -> dict[str, list[int]]:
    """Return the ranks of a file of predictions by round.

    Raises `DataError` for one that is not laid out so, and for a round twice.
    """
    found: dict[str, list[int]] = {}
    for record, where in listed(load(path), None, path):
        id, ranks = _round(record, where), record.get("ranks")
        if id in found:
            raise DataError(f"{where}: round {id!r:.40} is ranked twice; keep one of them")
        if not isinstance(ranks, list) or not ranks or not all(type(rank) is int for rank in ranks):
            raise DataError(f"{where}: 'ranks' is {ranks!r:.60}, must be a list of whole numbers")
        found[id] = ranks
    return found


def read_annotations(path: Path) -> tuple[dict[str, int] | None, dict[str, list[float]] | None]:
    """Return the right candidates of a file of dialogs, or the relevances of a dense one; None for the other.

    Raises `DataError` for a file of neither.
    """
    page = load(path)
    if isinstance(page, list):
        relevance: dict[str, list[float]] = {}
        for record, where in listed(page, None, path):
            id, values = _relevance(record, where)
            if id in relevance:
                raise DataError(f"{where}: round {id!r:.40} is annotated twice; keep one of them")
            relevance[id] = values
        return None, relevance
    data = page.get("data") if isinstance(page, dict) else None
    right: dict[str, int] = {}
    seen = set[str]()
    for record, where in listed(data.get("dialogs") if isinstance(data, dict) else None, None, path):
        image = identity(record, "image_id", where)
        if image in seen:
            raise DataError(f"{where}: picture {image!r:.40} has two dialogs; keep one of them")
        seen.add(image)
        turns = record.get("dialog")
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise DataError(f"{where}: 'dialog' is {turns!r:.60}, must be a list of turns")
        for number, turn in enumerate(turns, 1):
            index = turn.get("gt_index")
            if type(index) not in (int, type(None)):
                raise DataError(f"{where}: 'gt_index' of turn {number} is {index!r:.60}, must be a whole number")
            if index is not None:
                right[f"{image}:{number}"] = index
    if not right:
        raise DataError(f"{str(path)!r}: no turn has a 'gt_index'; give dialogs of train or val, or a dense file")
    return right, None


def _relevance(record: Any, where: str) -> tuple[str, list[float]]:
    id = _round(record, where)
    values = record.get("gt_relevance", record.get("relevance"))
    if not isinstance(values, list) or not all(type(v) in (int, float) and 0 <= v <= 1 for v in values):
        raise DataError(f"{where}: 'gt_relevance' is {values!r:.60}, must be a list of numbers from 0 to 1")
    return id, values


def _round(record: Any, where: str) -> str:
    return f"{identity(record, 'image_id', where)}:{identity(record, 'round_id', where)}"
