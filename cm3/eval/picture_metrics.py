"""Metrics of pictures against requests: maps by their regions, structures by their lines.

map_iou(made, true)                        colours of `cm3.tasks.control.colour`
structure_f1("canny", made, edges)         the edges of what was made against those that it was made of
"""

from __future__ import annotations

import numpy as np
import PIL.Image

from cm3.tasks import control

REACH = 2 / 256
"""How far from its place a line may lie, as a share of the picture's side: 2 pixels at 256."""
MAKERS = {"canny": control.canny, "scribble": control.scribble}
"""Structures that are computed of a picture alone, so of one that a model made too."""


def map_iou(made: PIL.Image.Image, true: PIL.Image.Image) -> float:
    """Return the intersection over union of two segmentation maps, 0..1: the mean over the categories that are in
    either.

    Black, which is none, is no category. `made` is brought to the size of `true`. Two maps without any are equal, 1.
    """
    made = made if made.size == true.size else made.resize(true.size, PIL.Image.Resampling.NEAREST)
    a, b = control.categories(made), control.categories(true)
    present = [k for k in np.union1d(a, b).tolist() if k]
    return float(np.mean([((a == k) & (b == k)).sum() / ((a == k) | (b == k)).sum() for k in present] or [1.0]))


def structure_f1(kind: str, made: PIL.Image.Image, given: PIL.Image.Image) -> float:
    """Measure how well a picture keeps to the lines that it was made of, 0..1; `kind` is of `MAKERS`, `given` a square.

    The lines of `made` are computed as `given` was. F1 of precision, the share of their pixels within `REACH` of one of
    `given`, and recall, the share of those of `given` within it of one of them. Raises `ConfigError` without OpenCV.
    """
    size = given.width
    return lines_f1(_lines(MAKERS[kind](made, size)), _lines(given), REACH * size)


def lines_f1(made: np.ndarray, given: np.ndarray, reach: float) -> float:
    """Return F1 of two drawings, bool (h, w), whose pixels agree up to `reach` pixels away; 1 where both are empty."""
    if not made.any() or not given.any():
        return float(made.any() == given.any())
    precision = float((made & _widened(given, reach)).sum() / made.sum())
    recall = float((given & _widened(made, reach)).sum() / given.sum())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _lines(drawing: PIL.Image.Image) -> np.ndarray:
    return np.asarray(drawing.convert("L")) > 127


def _widened(lines: np.ndarray, reach: float) -> np.ndarray:
    """Return every pixel within `reach` of a line."""
    high, wide = lines.shape
    r = int(reach)
    padded = np.pad(lines, r)
    wider = np.zeros_like(lines)
    for y in range(-r, r + 1):
        for x in range(-r, r + 1):
            if y * y + x * x <= reach * reach:
                wider |= padded[r + y : r + y + high, r + x : r + x + wide]
    return wider
