"""Canvas: the picture of an answer before the model's is laid on it, and the place for that.

A new picture is laid on grey, an edited one on the picture that was sent. What is laid down is cut out by the mask to
the pixel, so that all outside it stays as it was, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import PIL.Image

from cm3.document import Box, Image
from cm3.picture import rgb, upright
from cm3.sequence.holes import Prompt
from cm3.serve.problem import Problem

GREY = (128, 128, 128)
"""The colour of rows that are not drawn yet."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """base: RGB or RGBA, of the size of the answer. window: the square of it that the model sees. hole: of the window,
    mode "1", set where the model's pixels come."""

    base: PIL.Image.Image
    window: Box
    hole: PIL.Image.Image

    @classmethod
    def new(cls, side: int) -> Canvas:
        """Return an empty one, for a picture of the model's size."""
        return cls.whole(PIL.Image.new("RGB", (side, side), GREY))

    @classmethod
    def whole(cls, base: PIL.Image.Image) -> Canvas:
        """Return one on a square picture, all of which is drawn anew."""
        return cls(base, (0, 0, *base.size), PIL.Image.new("1", base.size, 1))

    @property
    def size(self) -> str:
        """Return its size as the interface writes it."""
        return f"{self.base.width}x{self.base.height}"

    @property
    def seen(self) -> Image:
        """Return the window as the model sees it, with the smallest box around the hole as its gap."""
        return Image(rgb(self.base.crop(self.window)), self.hole.getbbox())

    def painted(self, drawn: PIL.Image.Image, side: int) -> PIL.Image.Image:
        """Return it with the first rows, or all, of a picture that the model draws at `side` x `side`; the very same
        object where nothing else is seen, with what it carries."""
        whole = drawn.size == self.base.size == self.hole.size and bool(self.hole.getextrema()[0])
        if whole and drawn.mode == self.base.mode:
            return drawn
        made, (left, top, right, _) = self.base.copy(), self.window
        wide = right - left
        high = drawn.height * wide // side
        if high:
            box = (0.0, 0.0, float(side), high * side / wide)
            if (wide, high) != drawn.size:
                drawn = drawn.resize((wide, high), PIL.Image.Resampling.LANCZOS, box)
            made.paste(drawn, (left, top), self.hole.crop((0, 0, wide, high)))
        return made


def exact(picture: Image) -> PIL.Image.Image:
    """Return a picture upright in 8-bit RGB, or RGBA where it has transparency, which is kept."""
    pixels = picture.pixels
    return upright(pixels).convert("RGBA") if pixels.has_transparency_data else rgb(pixels)


def masked(picture: Image, mask: Image, name: str) -> Canvas:
    """Return the canvas of a picture where a mask is wholly transparent. Its window is the largest square in it, moved
    along the longer side until the hole is as near its middle as can be.

    Raises `Problem` 400, naming the mask's field, for one of another size, without transparency or without a hole, and
    for a hole that is longer than the window.
    """
    base = exact(picture)
    layer = upright(mask.pixels)
    if layer.size != base.size:
        sizes = f"the mask is {layer.width}x{layer.height} and the picture {base.width}x{base.height}"
        raise Problem(400, f"{name}: {sizes}; give a mask of the picture's size", name, "invalid_mask")
    if not layer.has_transparency_data:
        raise Problem(400, f"{name}: has no transparency; make it transparent where to draw", name, "invalid_mask")
    hole = layer.convert("RGBA").getchannel("A").point([255] + [0] * 255, "1")
    found = hole.getbbox()
    if found is None:
        why = "is nowhere wholly transparent (alpha 0), so there is nothing to draw; make it transparent where to draw"
        raise Problem(400, f"{name}: {why}", name, "invalid_mask")
    side = min(base.size)
    if max(found[2] - found[0], found[3] - found[1]) > side:
        why = (
            f"its hole is longer than {side} pixels, the largest square in the picture; mask less, or crop the picture"
        )
        raise Problem(400, f"{name}: {why}", name, "invalid_mask")
    left, top = (
        min(max((first + last - side) // 2, 0), whole - side)
        for first, last, whole in ((found[0], found[2], base.width), (found[1], found[3], base.height))
    )
    window = (left, top, left + side, top + side)
    return Canvas(base, window, hole.crop(window))


def due_rows(prompt: Prompt, columns: int, parts: int) -> list[int]:
    """Return after which rows of codes, counted from the top, partial pictures are sent: at equal parts of what is
    drawn. Empty where that is no picture."""
    drawn = [(cell - 1) // columns for hole in prompt.holes for cell in hole.cells if cell]
    if not drawn:
        return []
    first, number = min(drawn), max(drawn) + 1 - min(drawn)
    after = {-(-number * i // parts) for i in range(1, parts)}
    return [first + rows for rows in sorted(after) if rows < number]
