"""Ranked answers of Visual Dialog: figures by hand and by the starter code's arithmetic, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cm3.errors import DataError
from cm3.score.visdial import ndcg, read_annotations, read_ranks, score_visdial

RANKS = {"9:1": [2, 1, 3, 4], "9:2": [4, 3, 2, 1], "5:1": [1, 2, 3, 4]}
RIGHT = {"9:1": 0, "9:2": 3, "5:1": 3, "5:2": 0}
RELEVANCE = {"9:1": [0.5, 0.0, 1.0, 0.0], "5:1": [0.0, 0.0, 0.0, 0.2]}


def written(path: Path, page: Any) -> Path:
    path.write_text(json.dumps(page))
    return path


def test_figures_by_hand(tmp_path: Path) -> None:
    rounds = [(*id.split(":"), ranks) for id, ranks in RANKS.items()]
    ranks = [{"image_id": int(image), "round_id": int(number), "ranks": r} for image, number, r in rounds]
    dialogs = [
        {"image_id": 9, "dialog": [{"question": 0, "gt_index": 0}, {"gt_index": 3}]},
        {"image_id": 5, "dialog": [{"gt_index": 3}, {"gt_index": 0}, {"question": 4}]},
    ]
    dense = [{"image_id": int(id[0]), "round_id": int(id[2:]), "gt_relevance": r} for id, r in RELEVANCE.items()]
    made = read_ranks(written(tmp_path / "made.json", ranks))
    right, nothing = read_annotations(written(tmp_path / "val.json", {"data": {"dialogs": dialogs}}))
    none, relevance = read_annotations(written(tmp_path / "dense.json", dense))
    assert made == RANKS and right == RIGHT and relevance == RELEVANCE and nothing is None and none is None
    result = score_visdial(made, right, relevance)
    first = (0.0 / 1 + 0.5 / math.log2(3)) / (1.0 / 1 + 0.5 / math.log2(3))
    assert result.figures == pytest.approx(
        {
            "mrr": (1 / 2 + 1 / 1 + 1 / 4) / 3,
            "r@1": 1 / 3,
            "r@5": 1.0,
            "r@10": 1.0,
            "mean_rank": (2 + 1 + 4) / 3,
            "ndcg": (first + 0.0) / 2,
        }
    )
    assert result.warnings == (
        "1 of 4 rounds of the dialogs have no prediction, the first '5:2'; the figures are of the others",
    )
    dense_alone = score_visdial(made, relevance=relevance)  # of one round of each dialog; the others are no error
    assert set(dense_alone.figures) == {"ndcg"} and dense_alone.n == 2 and dense_alone.warnings == ()
    assert "ndcg" not in score_visdial(made, right).figures


def test_ndcg_is_the_arithmetic_of_the_starter_code() -> None:
    draw = np.random.default_rng(3)
    for _ in range(50):
        relevance = np.round(draw.random(100) * (draw.random(100) < 0.1), 1)
        relevance[0] = 0.4
        ranks = draw.permutation(100) + 1
        k = int((relevance != 0).sum())
        discounts = np.log2(np.arange(k) + 2)
        gain = (relevance[np.argsort(ranks)[:k]] / discounts).sum()
        best = (np.sort(relevance)[::-1][:k] / discounts).sum()
        assert ndcg(ranks.tolist(), relevance.tolist()) == pytest.approx(gain / best)


def test_a_round_of_no_relevance_is_left_out_and_said() -> None:
    result = score_visdial({"1:1": [1, 2], "2:1": [2, 1]}, relevance={"1:1": [0.0, 0.0], "2:1": [0.0, 1.0]})
    assert result.figures == {"ndcg": 1.0}
    assert result.warnings == ("1 rounds have no relevant candidate, the first '1:1'; NDCG leaves them out",)


def test_rounds_of_which_none_can_be_scored() -> None:
    with pytest.raises(DataError, match="nothing can be scored .*1 rounds have no relevant candidate"):
        score_visdial({"1:1": [1, 2]}, relevance={"1:1": [0.0, 0.0]})


def test_ranks_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="round '1:1': 'ranks' must be the numbers 1 to 2, each once"):
        score_visdial({"1:1": [1, 1]}, {"1:1": 0})
    with pytest.raises(DataError, match="none of 1 predictions is to one of the rounds"):
        score_visdial({"1:1": [1, 2]}, {"1:2": 0})
    with pytest.raises(DataError, match="none of 1 predictions is to one of the rounds"):
        score_visdial({"1:1": [1, 2]}, relevance={"2:1": [0.0, 1.0]})
    with pytest.raises(DataError, match="1 predictions are to none of the rounds, the first has id '1:3'"):
        score_visdial({"1:1": [1, 2], "1:3": [1, 2]}, {"1:1": 0})
    with pytest.raises(DataError, match="round '1:1': 'gt_index' is 5, must be 0 to 1"):
        score_visdial({"1:1": [1, 2]}, {"1:1": 5})
    with pytest.raises(DataError, match="3 relevances for 2 ranks"):
        score_visdial({"1:1": [1, 2]}, relevance={"1:1": [0.0, 0.5, 1.0]})


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ([{"image_id": 1, "round_id": 1, "ranks": [1]}] * 2, "round '1:1' is ranked twice"),
        ([{"image_id": 1, "ranks": [1]}], "'round_id' is None, must be a number or a text"),
        ([{"image_id": 1, "round_id": 1, "ranks": [1.0]}], r"'ranks' is \[1.0\], must be a list of whole numbers"),
        ([{"image_id": 1, "round_id": 1, "ranks": []}], r"'ranks' is \[\], must be"),
        ({}, "holds no list of records"),
    ],
)
def test_ranks_that_are_laid_out_otherwise(tmp_path: Path, page: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_ranks(written(tmp_path / "made.json", page))


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ({"data": {}}, "holds no list of records"),
        ({"data": {"dialogs": [{"image_id": 1, "dialog": [{"question": 1}]}]}}, "no turn has a 'gt_index'"),
        ({"data": {"dialogs": [{"image_id": 1, "dialog": 5}]}}, "'dialog' is 5, must be a list of turns"),
        ({"data": {"dialogs": [{"image_id": 1, "dialog": [5]}]}}, r"'dialog' is \[5\], must be a list of turns"),
        ({"data": {"dialogs": [{"image_id": 1, "dialog": [{"gt_index": "3"}]}]}}, "'gt_index' of turn 1 is '3', must"),
        ({"data": {"dialogs": [{"image_id": 1, "dialog": []}] * 2}}, "record 1: picture '1' has two dialogs"),
        ([{"image_id": 1, "round_id": 1, "gt_relevance": [1]}] * 2, "record 1: round '1:1' is annotated twice"),
        ([{"image_id": 1, "round_id": 1}], "'gt_relevance' is None, must be a list of numbers from 0 to 1"),
        ([{"image_id": 1, "round_id": 1, "gt_relevance": [-1]}], r"'gt_relevance' is \[-1\], must be"),
        ([{"image_id": 1, "round_id": 1, "gt_relevance": [1.5]}], r"'gt_relevance' is \[1.5\], must be"),
    ],
)
def test_annotations_that_are_laid_out_otherwise(tmp_path: Path, page: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_annotations(written(tmp_path / "said.json", page))
