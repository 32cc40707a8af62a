"""The codes that a picture was drawn from, kept with it: in memory, and as a note in its PNG file.

Pixels that were drawn from codes do not always give the same codes again: a picture that goes round through files would
drift. A note is what anyone can write, so it is no more than a guess: `ImageTokenizer.encode` draws its codes, and
takes them where that is the picture.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping

import numpy as np
import PIL.Image
from PIL.PngImagePlugin import PngInfo

MEMO = "_cm3_codes"
"""Attribute of a picture that was drawn from codes: the name of its pixels under the weights, and the codes."""
NOTE = "codes"
"""Name of the note: "ROWSxCOLS " and the codes in base64, as zlib packs them, 4 bytes each, least byte first."""
_MOST = 1 << 20


def remember(image: PIL.Image.Image, digest: str, codes: np.ndarray) -> None:
    """Keep codes (rows, cols) with a picture, for as long as its pixels have this digest."""
    setattr(image, MEMO, (digest, codes.astype(np.int32)))


def remembered(image: PIL.Image.Image) -> tuple[str, np.ndarray | None]:
    """Return the digest and codes of `remember`; "" and None where there are none."""
    digest, codes = getattr(image, MEMO, ("", None))
    return digest, codes


def note_of(image: PIL.Image.Image) -> dict[str, str]:
    """Return the note of a picture that was drawn from codes; an empty one of any other."""
    codes = remembered(image)[1]
    if codes is None:
        return {}
    packed = base64.b64encode(zlib.compress(codes.astype("<i4").tobytes(), 9)).decode()
    return {NOTE: f"{codes.shape[0]}x{codes.shape[1]} {packed}"}


def png_notes(image: PIL.Image.Image, notes: Mapping[str, str] | None = None) -> PngInfo:
    """Return the text chunks of a picture's PNG file: its note, and others by name."""
    info = PngInfo()
    for name, text in {**note_of(image), **(notes or {})}.items():
        info.add_itxt(name, text)
    return info


def noted(image: PIL.Image.Image, grid: tuple[int, int], codes: int) -> np.ndarray | None:
    """Return the codes int32 (rows, cols) of a picture's note; None where there is none, or none of `codes` codes of
    this grid."""
    text = image.info.get(NOTE)
    if not isinstance(text, str) or len(text) > _MOST:
        return None
    shape, _, packed = text.partition(" ")
    size = 4 * grid[0] * grid[1]
    if shape != f"{grid[0]}x{grid[1]}":
        return None
    try:
        inflated = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), size + 1)
    except (binascii.Error, ValueError, zlib.error):
        return None
    if len(inflated) != size:
        return None
    found = np.frombuffer(inflated, "<i4").reshape(grid).astype(np.int32)
    return found if found.min() >= 0 and found.max() < codes else None
