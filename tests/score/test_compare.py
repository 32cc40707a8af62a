"""Two results: what they have to share, and which difference is noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from made_results import COUNT, SETTINGS, captions, page

from cm3.errors import RequestError
from cm3.score.compare import SAID, compare

NAMES = ("a.json", "b.json")


def test_a_difference_on_every_item_is_told(tmp_path: Path) -> None:
    a, b = page(captions(tmp_path, "a")), page(captions(tmp_path, "b", 0.02))
    found = compare(a, b, NAMES)
    row = found.figures["CIDEr-D"]
    assert row.verdict == "higher" and row.n == COUNT and found.only_a == found.only_b == ()
    assert (row.a, row.b) == pytest.approx((a.figures["CIDEr-D"], b.figures["CIDEr-D"]))
    assert row.difference == pytest.approx(0.02) and row.interval == pytest.approx((0.02, 0.02))
    assert compare(b, a, NAMES).figures["CIDEr-D"].verdict == "lower"
    bleu = found.figures["BLEU-4"]
    assert (bleu.verdict, bleu.interval, bleu.n) == ("unknown", None, None) and bleu.difference == pytest.approx(0.02)
    assert found.warnings == ()


def test_noise_is_told(tmp_path: Path) -> None:
    path = captions(tmp_path, "a")
    items = page(path).items["CIDEr-D"]
    moved = {
        id: v + 0.1 * float(c)
        for (id, v), c in zip(items.items(), np.random.default_rng(1).normal(size=COUNT), strict=True)
    }
    figures = page(path).figures | {"CIDEr-D": math.fsum(moved.values()) / COUNT}
    found = compare(page(path), page(path, items={"CIDEr-D": moved}, figures=figures), NAMES)
    assert found.figures["CIDEr-D"].verdict == "noise"
    low, high = found.figures["CIDEr-D"].interval or (1, 0)
    assert low < 0 < high


def test_a_result_and_itself_are_the_same(tmp_path: Path) -> None:
    one = page(captions(tmp_path, "a"))
    found = compare(one, one, NAMES)
    assert found.figures["CIDEr-D"].verdict == "same" and found.figures["CIDEr-D"].interval == (0.0, 0.0)
    assert found.warnings == ("both are of the very same predictions",)


def test_items_of_one_alone_are_named_and_do_not_count(tmp_path: Path) -> None:
    a, b = page(captions(tmp_path, "a")), page(captions(tmp_path, "b", ids=range(10, COUNT)))
    found = compare(a, b, NAMES)
    assert found.only_a == tuple(map(str, range(10))) and found.only_b == ()
    row = found.figures["CIDEr-D"]
    assert row.verdict == "same" and row.n == 50 and row.difference == 0
    assert any("a.json alone has 10 items (0, 1, 2, 3, 4, ...)" in line for line in found.warnings)


def test_few_common_items_are_told(tmp_path: Path) -> None:
    a, b = page(captions(tmp_path, "a")), page(captions(tmp_path, "b", 0.1, ids=range(5)))
    assert any("too narrow: CIDEr-D" in line for line in compare(a, b, NAMES).warnings)
    one = page(captions(tmp_path, "c", 0.1, ids=range(1)))
    assert compare(a, one, NAMES).figures["CIDEr-D"].verdict == "unknown"


def test_results_that_are_not_comparable_are_refused(tmp_path: Path) -> None:
    a = page(captions(tmp_path, "a"))
    for other, told in (
        ({"suite": "flickr30k"}, "are of 'captions' version 1 and 'flickr30k' version 1"),
        ({"version": 2}, "'captions' version 1 and 'captions' version 2"),
        ({"references": {"captions": {"sha256": "0" * 64}}}, r"have other references \(captions\)"),
        ({"references": {}}, r"have other references \(captions\)"),
        ({"settings": {"tokenizer": "none"}}, r"df: 'references' and not set; tokenizer: 'ptb' and 'none'"),
    ):
        with pytest.raises(RequestError, match=told) as caught:
            compare(a, page(tmp_path / "a.result.json", **other), NAMES)
        assert "a.json and b.json" in str(caught.value)


def test_other_settings_pass_where_they_are_wanted_with_a_warning(tmp_path: Path) -> None:
    a, b = page(captions(tmp_path, "a")), page(captions(tmp_path, "b", 0.1, settings=SETTINGS | {"tokenizer": "none"}))
    found = compare(a, b, NAMES, anyway=True)
    assert found.figures["CIDEr-D"].verdict == "higher"
    assert any("settings differ" in line and "'ptb' and 'none'" in line for line in found.warnings)
    with pytest.raises(RequestError, match="have other references"):
        compare(a, page(tmp_path / "b.result.json", references={}), NAMES, anyway=True)


def test_other_versions_and_figures_are_told(tmp_path: Path) -> None:
    path = captions(tmp_path, "a")
    one, two = page(path), page(captions(tmp_path, "b", 0.1))
    changed = page(
        tmp_path / "b.result.json", versions=two.versions | {"torch": "1.0"},
        figures={"CIDEr-D": two.figures["CIDEr-D"]}, intervals={"CIDEr-D": two.intervals["CIDEr-D"]},
    )  # fmt: skip
    found = compare(one, changed, NAMES)
    assert any("torch: " in line and "and 1.0" in line for line in found.warnings)
    assert any("only one of the two has the figures BLEU-4" in line for line in found.warnings)
    assert list(found.figures) == ["CIDEr-D"]


def test_predictions_made_otherwise_are_told(tmp_path: Path) -> None:
    one, two = ({"model": name, "seed": 1, "sampling": {"guidance": g}} for name, g in (("x", 2), ("y", 3)))
    a, b = page(captions(tmp_path, "a", **one)), page(captions(tmp_path, "b", 0.1, **two))
    (told,) = compare(a, b, NAMES).warnings
    assert "made otherwise" in told and "sampling: {'guidance': 2} and {'guidance': 3}" in told
    assert "seed" not in told and "model:" not in told
    assert compare(a, page(captions(tmp_path, "c", 0.1, **one | {"model": "z"})), NAMES).warnings == ()


def test_every_verdict_has_words() -> None:
    assert SAID.keys() == {"higher", "lower", "noise", "same", "unknown"}
