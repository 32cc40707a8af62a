"""Any PIL picture as the upright RGB square that an encoder reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageOps
from PIL.Image import Resampling

from cm3.errors import DataError


def square(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """`image` upright, RGB, its short side brought to `size` by bicubic scaling, and the middle square of it.

    Transparent parts are laid on white; 16-bit, integer and float modes are scaled to 8 bits. Raises `DataError` for a
    picture that is empty or cannot be read.
    """
    if 0 in image.size:
        raise DataError(f"image of {image.width} x {image.height} pixels: is empty; give a picture with pixels")
    try:
        image.load()
        image = _rgb(upright(image))
    except Exception as error:  # Pillow raises many kinds for a file that proves to be cut short only now
        raise DataError(
            f"image of mode {image.mode}: cannot be read ({error}); save it again as PNG or JPEG"
        ) from error
    if image.size == (size, size):
        return image
    # OpenAI's CLIP scales the whole, to whole pixels, and then crops it, at whole pixels. The same here, but for what
    # the crop throws away.
    (w, h), least = image.size, min(image.size)
    wide, high = size * w // least, size * h // least
    left, top = round((wide - size) / 2), round((high - size) / 2)
    box = (left * w / wide, top * h / high, (left + size) * w / wide, (top + size) * h / high)
    return image.resize((size, size), Resampling.BICUBIC, box=box, reducing_gap=3.0)


def pixels_of(images: Sequence[PIL.Image.Image], size: int) -> np.ndarray:
    """Pictures as uint8 (n, 3, size, size)."""
    stacked = np.stack([np.asarray(square(image, size)) for image in images])  # (n, size, size, 3)
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """`image` as its EXIF orientation would have it seen; the very same object where there is nothing to turn."""
    try:
        turned = image.getexif().get(0x0112, 1) != 1
        return PIL.ImageOps.exif_transpose(image) if turned else image
    except Exception:  # a broken EXIF block is no reason to refuse good pixels
        return image


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith(("I", "F")):
        return _grey(image).convert("RGB")
    if image.mode == "La":  # Pillow knows only this way out of premultiplied grey
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
        return PIL.Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(image: PIL.Image.Image) -> PIL.Image.Image:
    """Deep greyscale as 8 bits, by the first of the spans 0..1 (F only), 0..255 and 0..65535 that holds all values."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    spans = [65535.0] if image.mode.startswith("I;16") else [255.0, 65535.0]
    if image.mode == "F":
        spans.insert(0, 1.0)
    top = next((span for span in spans if low >= 0 and high <= span), None)
    if top is None:  # no usual span: from the least to the greatest
        values, top = values - low, (high - low) or 1.0
    return PIL.Image.fromarray(np.rint(values * (255.0 / top)).astype(np.uint8))
