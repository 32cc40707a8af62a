"""Any PIL picture as the upright RGB square that an encoder reads, and as a digest of what it shows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import PIL.Image
from PIL.Image import Resampling

from cm3.picture import rgb


def square(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """`image` upright, RGB, its short side brought to `size` by bicubic scaling, and the middle square of it.

    Raises `DataError` for a picture that is empty or cannot be read.
    """
    image = rgb(image)
    if image.size == (size, size):
        return image
    # OpenAI's CLIP scales the whole, to whole pixels, and then crops it, at whole pixels. The same here, but for what
    # the crop throws away.
    (w, h), least = image.size, min(image.size)
    wide, high = size * w // least, size * h // least
    left, top = round((wide - size) / 2), round((high - size) / 2)
    box = (left * w / wide, top * h / high, (left + size) * w / wide, (top + size) * h / high)
    return image.resize((size, size), Resampling.BICUBIC, box=box, reducing_gap=3.0)


def digest(image: PIL.Image.Image) -> bytes:
    """Return 16 bytes that stand for what a picture shows, upright and in RGB: equal for the same under another format.

    Raises `DataError` for a picture that is empty or cannot be read.
    """
    shown = rgb(image)
    return hashlib.blake2b(shown.tobytes(), digest_size=16, key=f"{shown.width} x {shown.height}".encode()).digest()


def pixels_of(images: Sequence[PIL.Image.Image], size: int) -> np.ndarray:
    """Pictures as uint8 (n, 3, size, size)."""
    stacked = np.stack([np.asarray(square(image, size)) for image in images])  # (n, size, size, 3)
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))
