"""Any PIL picture as the upright RGB square that an encoder reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image

import cm3.picture


def square(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """Return `image` upright, RGB, its short side brought to `size` by bicubic scaling, and the middle square of it.

    Raises `DataError` for a picture that is empty or cannot be read.
    """
    return cm3.picture.square(image, size, "clip")


def pixels_of(images: Sequence[PIL.Image.Image], size: int) -> np.ndarray:
    """Return pictures as uint8 (n, 3, size, size)."""
    stacked = np.stack([np.asarray(square(image, size)) for image in images])  # (n, size, size, 3)
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))
