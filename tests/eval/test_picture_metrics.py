"""Maps and lines: what is the same scores 1, and by how much the rest falls short."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from published import picture

from cm3.eval.picture_metrics import lines_f1, map_iou, structure_f1
from cm3.tasks import control


def painted(*categories: int) -> PIL.Image.Image:
    """A map in columns of one pixel."""
    return PIL.Image.fromarray(np.array([[control.colour(c) for c in categories]] * 4, np.uint8))


def test_iou_is_a_mean_over_categories_in_either() -> None:
    true = painted(0, 1, 1, 2)
    assert map_iou(true, true) == 1.0
    assert map_iou(painted(0, 1, 0, 0), true) == pytest.approx((1 / 2 + 0) / 2)
    assert map_iou(painted(3, 1, 1, 2), true) == pytest.approx(2 / 3)
    assert map_iou(painted(0, 0, 0, 0), true) == 0.0
    assert map_iou(painted(0, 0), painted(0, 0)) == 1.0
    assert map_iou(true.resize((16, 16), PIL.Image.Resampling.NEAREST), true) == 1.0
    noise = np.random.default_rng(0).integers(-20, 21, (4, 4, 3))
    noisy = PIL.Image.fromarray(np.clip(np.asarray(true).astype(int) + noise, 0, 255).astype(np.uint8))
    assert map_iou(noisy, true) == 1.0, "small errors of colour do not matter"


def test_lines_agree_up_to_a_distance() -> None:
    given, shifted = np.zeros((2, 20, 20), bool)
    given[:, 5], shifted[:, 7] = True, True
    assert lines_f1(given, given, 0.25) == 1.0
    assert lines_f1(shifted, given, 2.0) == 1.0 and lines_f1(shifted, given, 1.9) == 0.0
    half = given.copy()
    half[10:] = False
    assert lines_f1(half, given, 0.0) == pytest.approx(2 / 3), "precision 1, recall a half"
    assert lines_f1(given, half, 0.0) == pytest.approx(2 / 3)
    empty = np.zeros_like(given)
    assert lines_f1(empty, empty, 2.0) == 1.0 and lines_f1(given, empty, 2.0) == lines_f1(empty, given, 2.0) == 0.0
    diagonal = np.zeros_like(given)
    diagonal[3, 3] = given[0, 0] = True
    assert lines_f1(diagonal, np.eye(20, dtype=bool) & (np.arange(20) == 5), 2.9) == 1.0
    assert lines_f1(diagonal, np.eye(20, dtype=bool) & (np.arange(20) == 5), 2.8) == 0.0


@pytest.mark.parametrize("kind", ["canny", "scribble"])
def test_the_picture_itself_keeps_to_its_lines(kind: str) -> None:
    pytest.importorskip("cv2")
    true = picture(0, (256, 256))
    given = {"canny": control.canny, "scribble": control.scribble}[kind](true, 128)
    assert structure_f1(kind, true, given) == 1.0
    assert structure_f1(kind, PIL.Image.new("RGB", (128, 128)), given) == 0.0
    assert structure_f1(kind, true.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT), given) < 0.8
