"""Any picture as upright 8-bit RGB: the one way from a file's bytes to the colours that a model or an encoder reads.

Pillow reads some forty formats, chosen by a file's bytes, and one of them starts another program. Only those of
`FORMATS` are read here, and nothing else in this package opens a picture (tests/test_house.py).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import PIL.Image
from PIL import features
from PIL.Image import Transpose

from cm3.errors import DataError
from cm3.files import said

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", *(("AVIF",) if features.check("avif") else ()))
"""The formats that are read, in Pillow's names. JPEG holds MPO, the photographs of phones; PPM holds PBM and PGM."""

LIMIT = 178_956_970
"""Most pixels of a picture, twice Pillow's own warning: a small file that unpacks to more is taken for an attack."""

LIMITS = {"WEBP": LIMIT // 2, "AVIF": LIMIT // 2}
"""The same of formats whose decoders keep several copies of a picture, so that none takes more than about 2 GB."""

BYTES = 1 << 30
"""Most bytes of a picture's file: more than `LIMIT` pixels take without any compression."""

_BAND = 1 << 20
"""Pixels that are converted at a time, where converting takes more room than the picture."""

_NAME = "_cm3_name"
"""Attribute of an opened picture: the name of its file, for the message when it proves to be cut short."""

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


CONTROLS = ("hed", "depth", "normal")
"""Kinds of control image that networks make, which are read from files beside the picture: NAME.hed.png."""


def open_picture(data: bytes, name: str = "") -> PIL.Image.Image:
    """A picture file's bytes as a PIL image, of which only the header is read; the first frame where it moves.

    The bytes decide which of `FORMATS` they are, not a file's name; `name` is for messages, also for `rgb`'s. Raises
    `DataError` for bytes that are no such picture, for more than `BYTES` of them, and for more pixels than `LIMIT` (or
    `LIMITS`); bytes that prove to be cut short later make `rgb` raise.
    """
    name = " ".join(name.split())
    what = f"{name}: picture" if name else "picture"
    if not data:
        raise DataError(f"{what} of 0 bytes: is empty; save it again")
    if len(data) > BYTES:
        raise DataError(f"{what} of {len(data)} bytes: more than {BYTES}; scale it down")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pixels, LIMIT is the one rule; of odd metadata, the pixels are good
            image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        raise DataError(f"{what} of {len(data)} bytes: not a picture; give a PNG, JPEG or WebP file") from error
    except PIL.Image.DecompressionBombError as error:
        raise DataError(f"{what} of {len(data)} bytes: {_bomb(error)}") from error
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise DataError(f"{what} of {len(data)} bytes: cannot be read ({said(error)}); save it again") from error
    limit = LIMITS.get(image.format or "", LIMIT)
    if image.width * image.height > limit:
        raise DataError(f"{what} of {image.width} x {image.height} pixels: more than {limit}; scale it down")
    if name:
        setattr(image, _NAME, name)
    return image


def rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """`image` upright by its EXIF orientation, in 8-bit RGB; the very same object when it is so already.

    Transparent parts are laid on white; 16-bit, integer and float modes are scaled to 8 bits (`_span`). Raises
    `DataError` for a picture that is empty or cannot be read to its end.
    """
    name = getattr(image, _NAME, "")
    what = f"{name}: image" if name else "image"
    if 0 in image.size:
        raise DataError(f"{what} of {image.width} x {image.height} pixels: is empty; give a picture with pixels")
    try:
        image.load()
        return _coloured(upright(image))
    except Exception as error:  # a lazily opened file may prove to be cut short only now, in as many ways as formats
        raise DataError(
            f"{what} of mode {image.mode}: cannot be read ({said(error)}); save it again as PNG or JPEG"
        ) from error


def bands(image: PIL.Image.Image) -> Iterator[tuple[int, PIL.Image.Image]]:
    """Yield a picture as bands of whole rows, each with its first row: work on one takes little room beside it."""
    rows = max(1, _BAND // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


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
    deep = image.mode.startswith(("I", "F"))
    if not deep and image.mode != "La" and not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    low, top = _span(image) if deep else (0.0, 0.0)
    made = PIL.Image.new("RGB", image.size)
    for row, band in bands(image):
        made.paste(_grey(band, low, top).convert("RGB") if deep else _on_white(band), (0, row))
    return made


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode == "La":  # Pillow knows only this way out of premultiplied grey
        image = image.convert("LA")
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
    return PIL.Image.alpha_composite(white, image).convert("RGB")


def _values(image: PIL.Image.Image) -> np.ndarray:
    import numpy as np  # here, as importing `cm3` should cost nothing

    return np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)


def _span(image: PIL.Image.Image) -> tuple[float, float]:
    """(low, top) of deep greyscale: `low` becomes black and `low + top` white.

    16-bit modes span 0 to 65535. Modes I and F do not say their range, so it is read off the values: the first of 0..1
    (F only), 0..255 and 0..65535 that holds them all, else from their least to their greatest.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    ends = [(float(values.min()), float(values.max())) for values in (_values(band) for _, band in bands(image))]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    spans = [1.0, 255.0, 65535.0] if image.mode == "F" else [255.0, 65535.0]
    top = next((span for span in spans if low >= 0 and high <= span), None)
    return (0.0, top) if top is not None else (low, (high - low) or 1.0)


def _grey(image: PIL.Image.Image, low: float, top: float) -> PIL.Image.Image:
    """Return deep greyscale as 8 bits: scaled, where Pillow's own conversion clips."""
    return PIL.Image.fromarray(((_values(image) - low) * (255.0 / top)).round().astype("uint8"))


def _bomb(error: Exception) -> str:
    return f"more pixels than {LIMIT} ({said(error)}); scale it down"
