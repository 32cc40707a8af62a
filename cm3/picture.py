"""Any picture as upright 8-bit RGB, and as the square of it that a model or an encoder reads.

    bytes --open_picture--> header --rgb--> upright RGB --square--> size x size
    bytes ------------square_of_file, of a large JPEG at a half, a quarter or an eighth--------> size x size

Pillow reads some forty formats, chosen by a file's bytes, and one of them starts another program. Only those of
`FORMATS` are read here, and nothing else in this package opens a picture (tests/test_house.py).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeVar

import PIL.Image
import PIL.ImageFile
from PIL import features
from PIL.Image import Resampling, Transpose

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

Square = Literal["crop", "stretch", "clip"]
"""How a picture becomes a square: its largest centred square by Lanczos scaling, all of it by the same, or as OpenAI's
CLIP does it: all scaled by a bicubic filter to whole pixels, and then its middle."""

Span = tuple[float, float, float, float]
"""A part of a picture (x0, y0, x1, y1) in its pixels, which may be cut."""

_N = TypeVar("_N", int, float)

MARGIN, SHARP = 2, 3
"""A JPEG is decoded to at least so many times the side that it is scaled to; so many where it is sharp,"""
BITS = 2.0
"""which it is taken for where its file has more bits a pixel."""

QUALITY = 60, 96
"""Least and first too large quality of the JPEG files that `copy_of` makes."""
SCALE = 0.75, 2.0
"""Least and largest scale at which it shows a picture before it is as large as it was."""
JPEG = 0.6
"""Share of its copies that are JPEG; the others are scaled."""

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
    """Return a picture file's bytes as a PIL image, of which only the header is read; the first frame where it moves.

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
    """Return `image` upright by its EXIF orientation, in 8-bit RGB; the very same object when it is so already.

    Transparent parts are laid on white; 16-bit, integer and float modes are scaled to 8 bits (`_span`). Raises
    `DataError` for a picture that is empty or cannot be read to its end.
    """
    if 0 in image.size:
        name = getattr(image, _NAME, "")
        what = f"{name}: image" if name else "image"
        raise DataError(f"{what} of {image.width} x {image.height} pixels: is empty; give a picture with pixels")
    try:
        image.load()
        return _coloured(upright(image))
    except Exception as error:  # a lazily opened file may prove to be cut short only now, in as many ways as formats
        raise _unread(image, error) from error


def bands(image: PIL.Image.Image) -> Iterator[tuple[int, PIL.Image.Image]]:
    """Yield a picture as bands of whole rows, each with its first row: work on one takes little room beside it."""
    rows = max(1, _BAND // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def orientation(image: PIL.Image.Image) -> int:
    """Return EXIF orientation 1 to 8; 1 where there is none or the EXIF block is damaged."""
    try:
        found = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block is no reason to refuse good pixels
        return 1
    return found if found in _UPRIGHT else 1


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return `image` as its EXIF orientation would have it seen; the very same object where there is nothing to
    turn."""
    return _turned(image, orientation(image))


def square(image: PIL.Image.Image, size: int, fit: Square = "crop", part: Span | None = None) -> PIL.Image.Image:
    """Return `image` as an upright RGB picture of `size` x `size`; the very same object when it is one already.

    `part`: what of the upright picture is scaled, in the place of what `fit` says. Raises `DataError` for a picture
    that is empty or cannot be read.
    """
    image = rgb(image)
    x0, y0, x1, y1 = part or _part(image.size, fit, size)
    if (x1 - x0, y1 - y0) == (size, size) and all(float(v).is_integer() for v in (x0, y0)):
        return image if image.size == (size, size) else image.crop((int(x0), int(y0), int(x1), int(y1)))
    return image.resize((size, size), _filter(fit), box=(x0, y0, x1, y1), reducing_gap=3.0)


def square_of_file(
    data: bytes, size: int, fit: Square = "crop", part: Span | None = None, name: str = ""
) -> PIL.Image.Image:
    """Return `square` of a picture's file; a JPEG that is much larger is decoded at a half, a quarter or an eighth.

    At least `MARGIN` (`SHARP`) times the wanted side is decoded, so that the result is within 40 dB (PSNR) of `square`
    from 32 pixels on; what is not that large, or is no JPEG in RGB or grey, comes out as by `square`, to the bit.
    Raises `DataError` as `open_picture` and `rgb`.
    """
    image = open_picture(data, name)
    turn = orientation(image)
    stored = image.size
    shown = stored[::-1] if turn >= 5 else stored
    span = part or _part(shown, fit, size)
    least = min(span[2] - span[0], span[3] - span[1])
    margin = MARGIN if 8 * len(data) <= BITS * stored[0] * stored[1] else SHARP
    scale = next((s for s in (8, 4, 2) if least >= s * margin * size), 1)
    if scale == 1 or image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        return square(image, size, fit, part)
    assert isinstance(image, PIL.ImageFile.ImageFile)
    drafted = image.draft(image.mode, (stored[0] // scale, stored[1] // scale))
    if drafted is None:
        return square(image, size, fit, part)
    # The last row and column of what is decoded may be of less than `scale` pixels: `drafted` has where they end.
    across, down = drafted[1][2] / stored[0], drafted[1][3] / stored[1]
    x0, y0, x1, y1 = turned(span, shown, {6: 8, 8: 6}.get(turn, turn))
    try:
        image.load()
    except Exception as error:
        raise _unread(image, error) from error
    box = (x0 * across, y0 * down, min(x1 * across, image.width), min(y1 * down, image.height))
    small = _coloured(image).resize((size, size), _filter(fit), box=box, reducing_gap=float(margin))
    return _turned(small, turn)


def as_jpeg(image: PIL.Image.Image, quality: int) -> PIL.Image.Image:
    """Return an RGB picture as it comes back from a JPEG file of a quality of 1 to 100."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return rgb(open_picture(buffer.getvalue()))


def copy_of(image: PIL.Image.Image, which: float, how: float) -> PIL.Image.Image:
    """Return an RGB picture as copies are seen: below `JPEG`, `which` of 0 to 1 stands for a JPEG file, and `how` for
    its quality; from there on for another size and back, and `how` for the scale."""
    if which < JPEG:
        least, end = QUALITY
        return as_jpeg(image, least + int(how * (end - least)))
    small, large = SCALE
    scale = small * (large / small) ** how
    shown = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(shown, Resampling.BICUBIC).resize(image.size, Resampling.LANCZOS, reducing_gap=3.0)


def window(size: tuple[int, int], fit: Square) -> tuple[int, int, int, int]:
    """Return the part of an upright picture of `size` that `crop` and `stretch` keep: its centred square, on whole
    pixels."""
    width, height = size
    if fit == "stretch":
        return 0, 0, width, height
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def turned(part: tuple[_N, _N, _N, _N], size: tuple[int, int], turn: int) -> tuple[_N, _N, _N, _N]:
    """Return where a part of a stored picture of `size` lies after it was brought upright from EXIF orientation
    `turn`."""
    (x0, y0, x1, y1), (width, height) = part, size
    if turn in (2, 3, 7, 8):  # these four mirror the stored x axis
        x0, x1 = width - x1, width - x0
    if turn in (3, 4, 6, 7):  # and these the stored y axis
        y0, y1 = height - y1, height - y0
    return (y0, x0, y1, x1) if turn >= 5 else (x0, y0, x1, y1)  # and these swap the axes afterwards


def _turned(image: PIL.Image.Image, turn: int) -> PIL.Image.Image:
    way = _UPRIGHT.get(turn)
    if way is None:
        return image
    image = image.transpose(way)
    for key in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        image.info.pop(key, None)  # else the next reader would turn it again
    return image


def _part(size: tuple[int, int], fit: Square, side: int) -> Span:
    """Return the part of an upright picture of `size` that is scaled to `side` x `side`."""
    if fit != "clip":
        return window(size, fit)
    # CLIP scales the whole, to whole pixels, and then crops it. The same here, but for what the crop throws away.
    (width, height), least = size, min(size)
    wide, high = side * width // least, side * height // least
    left, top = round((wide - side) / 2), round((high - side) / 2)
    return left * width / wide, top * height / high, (left + side) * width / wide, (top + side) * height / high


def _filter(fit: Square) -> Resampling:
    return Resampling.BICUBIC if fit == "clip" else Resampling.LANCZOS


def _unread(image: PIL.Image.Image, error: Exception) -> DataError:
    name = getattr(image, _NAME, "")
    what = f"{name}: image" if name else "image"
    return DataError(f"{what} of mode {image.mode}: cannot be read ({said(error)}); save it again as PNG or JPEG")


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
    """Return (low, top) of deep greyscale: `low` becomes black and `low + top` white.

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
