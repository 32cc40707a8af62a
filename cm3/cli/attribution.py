"""The thought and the documents that a picture drew on, as lines and as panels of a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cm3.cli.outputs import line

if TYPE_CHECKING:
    from cm3.cli.sheet import Panel
    from cm3.generate import Retrieved

LONGEST = 80
"""Characters of a document's text that a line shows."""


def told(found: Sequence[Retrieved], label: str = "drew on") -> list[str]:
    """Return a line for each document: its id, how it was found, source, licence, and the beginning of its text."""
    lines = []
    for f in found:
        d = f.document
        text = " ".join(d.text.split())
        text = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
        parts = [d.id or "a document", how(f), d.source, licence(f), repr(text) if text else "no text"]
        lines.append(f"  {label} {'  '.join(p for p in parts if p)}")
    return lines


def thought_line(thought: str) -> list[str]:
    """Return a line for what was thought first, none where nothing was."""
    return [f"  thought: {line(thought)}"] if thought else []


def how(found: Retrieved) -> str:
    """Return `0.83 by text`, or `by hand` where nobody searched."""
    return f"by {found.by}" if found.score != found.score else f"{found.score:.2f} by {found.by}"


def licence(found: Retrieved) -> str:
    """Return `licence MIT`, or that none is known."""
    known = str(found.document.meta.get("license", ""))
    return f"licence {known}" if known else "licence unknown"


def document_panel(found: Retrieved, label: str = "drew on", side: int = 256) -> Panel:
    """Return a document on a sheet: its picture, or an empty card where it is text alone, and what `told` tells."""
    import PIL.Image

    from cm3.cli.sheet import FAINT, Line, Panel

    d = found.document
    picture = d.images[0].pixels if d.images else PIL.Image.new("RGB", (side, side), FAINT)
    lines = [Line(f"{label} {d.id}".rstrip(), "label"), Line(" ".join(d.text.split()))]
    lines += [Line(", ".join(p for p in (how(found), d.source, licence(found)) if p), "label")]
    return Panel(picture, tuple(line for line in lines if line.text))
