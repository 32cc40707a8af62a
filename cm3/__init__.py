"""An open CM3Leon: one decoder-only transformer that reads and writes text and images as tokens.

    import cm3
    model = cm3.load("stickers")
    model.generate("a large lion on a sky ground", seed=7).image.save("lion.png")

Importing the package loads nothing else; `load` and the classes do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Unpack

from cm3.errors import Cm3Error

if TYPE_CHECKING:
    from pathlib import Path

    from cm3.document import Document, Gap, Image, Text
    from cm3.generate import CM3Leon, Loading

__version__ = "0.2.0.dev0"
__all__ = ["CM3Leon", "Cm3Error", "Document", "Gap", "Image", "Text", "load"]
_HOMES = {
    "CM3Leon": "cm3.generate",
    **dict.fromkeys(("Document", "Gap", "Image", "Text"), "cm3.document"),
}


def load(name: str | Path = "stickers", **options: Unpack[Loading]) -> CM3Leon:
    """Load a model: an embedded bundle by name, a bundle folder, or `hf://owner/name`. See `CM3Leon.load`.

    `cm3.load("stickers", device="cuda", dtype="bfloat16")` computes on a GPU; "auto" is what suits the machine.
    """
    from cm3.generate import CM3Leon

    return CM3Leon.load(name, **options)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cm3' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return all names, also those that load only when they are used."""
    return sorted({*globals(), *__all__})
