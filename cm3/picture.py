"""Any picture as upright 8-bit RGB: the one way from a file's bytes to the colours that a model or an encoder reads."""

from __future__ import annotations

import io
import warnings

import numpy as np
import PIL.Image
from PIL.Image import Transpose

from cm3.errors import DataError

LIMIT = 178_956_970
"""Most pixels of a picture, twice Pillow's own warning: a small file that unpacks to more is taken for an attack."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""EXIF orientation -> what brings the picture upright. Orientation 1, or none, needs nothing."""


def open_picture(data: bytes) -> PIL.Image.Image:
    """A picture file's bytes as a PIL image, of which only the header is read; the first frame where it moves.

    What the bytes are is decided by the bytes, not by a file's name. Raises `DataError` for bytes that are no picture
    and for more than `LIMIT` pixels; bytes that prove to be cut short later make `rgb` raise.
    """
    if not data:
        raise DataError("picture of 0 bytes: is empty; save it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # LIMIT is the one rule
            image = PIL.Image.open(io.BytesIO(data))
    except PIL.UnidentifiedImageError as error:
        raise DataError(f"picture of {len(data)} bytes: not a picture; give a PNG, JPEG or WebP file") from error
    except PIL.Image.DecompressionBombError as error:
        raise DataError(f"picture of {len(data)} bytes: {_bomb(error)}") from error
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise DataError(f"picture of {len(data)} bytes: cannot be read ({_said(error)}); save it again") from error
    if image.width * image.height > LIMIT:
        raise DataError(f"picture of {image.width} x {image.height} pixels: more than {LIMIT}; scale it down")
    return image


def rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """`image` upright by its EXIF orientation, in 8-bit RGB; the very same object when it is so already.

    Transparent parts are laid on white; 16-bit, integer and float modes are scaled to 8 bits (`_grey`). Raises
    `DataError` for a picture that is empty or cannot be read to its end.
    """
    if 0 in image.size:
        raise DataError(f"image of {image.width} x {image.height} pixels: is empty; give a picture with pixels")
    try:
        image.load()
        return _coloured(upright(image))
    except Exception as error:  # a lazily opened file may prove to be cut short only now, in as many ways as formats
        raise DataError(
            f"image of mode {image.mode}: cannot be read ({_said(error)}); save it again as PNG or JPEG"
        ) from error


def orientation(image: PIL.Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or the EXIF block is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block is no reason to refuse good pixels
        return 1


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """`image` as its EXIF orientation would have it seen; the very same object where there is nothing to turn."""
    turn = _UPRIGHT.get(orientation(image))
    if turn is None:
        return image
    image = image.transpose(turn)
    for key in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        image.info.pop(key, None)  # else the next reader would turn it again
    return image


def _coloured(image: PIL.Image.Image) -> PIL.Image.Image:
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
    """Deep greyscale as 8 bits: scaled, where Pillow's own conversion clips.

    16-bit modes span 0 to 65535. Modes I and F do not say their range, so it is read off the values: the first of 0..1
    (F only), 0..255 and 0..65535 that holds them all, else from their least to their greatest.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    spans = [65535.0] if image.mode.startswith("I;16") else [255.0, 65535.0]
    if image.mode == "F":
        spans.insert(0, 1.0)
    top = next((span for span in spans if low >= 0 and high <= span), None)
    if top is None:
        values, top = values - low, (high - low) or 1.0
    return PIL.Image.fromarray(np.rint(values * (255.0 / top)).astype(np.uint8))


def _bomb(error: Exception) -> str:
    return f"more pixels than {LIMIT} ({_said(error)}); scale it down"


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
