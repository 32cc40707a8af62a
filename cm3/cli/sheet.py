"""Rows of captioned pictures on one sheet, a PNG that stands in a README without further words.

Section(title, panels)     a kind of thing shown; `columns` panels a row
Panel(picture, lines)      a picture with lines of text under it, or beside it where it is alone in its section
Line(text, style)          prompt | label | body | right | wrong; the last two carry a tick or a cross
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

Style = Literal["prompt", "label", "body", "right", "wrong"]
INK, MUTED, FAINT, PAPER = "#1b1c22", "#6a6c78", "#d9dae2", "#ffffff"
COLOUR: dict[Style, str] = {"prompt": INK, "label": MUTED, "body": INK, "right": "#17784a", "wrong": "#b83227"}
POINTS: dict[Style, int] = {"prompt": 18, "label": 13, "body": 16, "right": 15, "wrong": 15}
SPACE_ABOVE: dict[Style, int] = {"prompt": 0, "label": 12, "body": 1, "right": 5, "wrong": 5}
LEADING = 1.32
MARGIN, GUTTER = 64, 40


@dataclass(frozen=True)
class Line:
    """A paragraph of a caption."""

    text: str
    style: Style = "body"


@dataclass(frozen=True)
class Panel:
    """A picture and what is said of it."""

    picture: PIL.Image.Image
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Section:
    """Panels of one kind, under a title and a note."""

    title: str
    panels: tuple[Panel, ...]
    note: str = ""


def verdict(ok: bool, right: str, wrong: str) -> Line:
    """Draw a line with a tick or a cross."""
    return Line(right, "right") if ok else Line(wrong, "wrong")


def sheet(
    sections: Sequence[Section], title: str, subtitle: str = "", *, columns: int = 3, side: int = 256
) -> PIL.Image.Image:
    """Draw a sheet; each picture is scaled to `side` pixels, so 128 becomes twice as large."""
    width = 2 * MARGIN + columns * side + (columns - 1) * GUTTER
    # Drawn twice: once on a scrap to learn the height, once for good.
    height = _draw(PIL.Image.new("RGB", (width, 1)), sections, title, subtitle, columns, side)
    page = PIL.Image.new("RGB", (width, height), PAPER)
    _draw(page, sections, title, subtitle, columns, side)
    return page


def enlarged(picture: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """Return the picture scaled so that its longer side is `side`, in RGB."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, PIL.Image.Resampling.LANCZOS)


def wrap(text: str, font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont, width: float) -> list[str]:
    """Break a text into lines of at most `width` pixels; a word longer than that stands alone."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _draw(
    page: PIL.Image.Image, sections: Sequence[Section], title: str, subtitle: str, columns: int, side: int
) -> int:
    """Draw everything from the top; returns where it ends."""
    pen = PIL.ImageDraw.Draw(page)
    inner = page.width - 2 * MARGIN
    y = _text(pen, MARGIN, MARGIN - 8, title, 34, INK, inner)
    y = _text(pen, MARGIN, y + 4, subtitle, 17, MUTED, inner)
    for section in sections:
        y += 36
        pen.line((MARGIN, y, page.width - MARGIN, y), fill=FAINT, width=1)
        y = _text(pen, MARGIN, y + 22, section.title, 22, INK, inner)
        y = _text(pen, MARGIN, y + 2, section.note, 15, MUTED, inner) + 16
        for start in range(0, len(section.panels), columns):
            ends = [y]
            for i, panel in enumerate(section.panels[start : start + columns]):
                x = MARGIN + i * (side + GUTTER)
                picture = enlarged(panel.picture, side)
                page.paste(picture, (x, y))
                pen.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=FAINT)
                below = y + picture.height
                if len(section.panels) == 1:
                    beside = x + side + GUTTER
                    ends += [below, _caption(pen, beside, y - 2, panel.lines, page.width - MARGIN - beside)]
                else:
                    ends.append(_caption(pen, x, below + 12, panel.lines, side))
            y = max(ends) + (30 if start + columns < len(section.panels) else 0)
    return y + MARGIN


def _caption(pen: PIL.ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[Line], width: int) -> int:
    for line in lines:
        y += SPACE_ABOVE[line.style]
        indent = 0
        if line.style in ("right", "wrong"):
            _mark(pen, x, y + 4, 11, line.style == "right", COLOUR[line.style])
            indent = 19
        y = _text(pen, x + indent, y, line.text, POINTS[line.style], COLOUR[line.style], width - indent)
    return y


def _text(pen: PIL.ImageDraw.ImageDraw, x: int, y: int, text: str, points: int, colour: str, width: float) -> int:
    """Write wrapped text with its top at y; returns where the next line would start."""
    font = PIL.ImageFont.load_default(points)
    for line in wrap(text, font, width):
        pen.text((x, y), line, fill=colour, font=font)
        y += round(points * LEADING)
    return y


def _mark(pen: PIL.ImageDraw.ImageDraw, x: int, y: int, size: int, ok: bool, colour: str) -> None:
    """Draw a tick or a cross, because not every font has them."""
    if ok:
        strokes = [[(x, y + 0.55 * size), (x + 0.38 * size, y + 0.92 * size), (x + size, y + 0.1 * size)]]
    else:
        near, far = 0.08 * size, 0.92 * size
        strokes = [[(x + near, y + near), (x + far, y + far)], [(x + near, y + far), (x + far, y + near)]]
    for stroke in strokes:
        pen.line(stroke, fill=colour, width=2, joint="curve")
