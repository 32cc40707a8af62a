"""Web shards for tests, as img2dataset writes them: 00000.tar of 000000000.jpg, .txt, .json."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import PIL.Image

from cm3.document import Document, Unreadable
from cm3.read.webdataset import WebDataset


def jpg(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 6), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def record(key: str, caption: str | None, **more: Any) -> bytes:
    """The .json of a sample, with the fields that img2dataset writes."""
    known = {
        "caption": caption, "url": f"http://example.org/{key}.jpg", "key": key, "status": "success",
        "error_message": None, "width": 8, "height": 6, "original_width": 80, "original_height": 60,
        "exif": "{}", "sha256": "ab12",
    }  # fmt: skip
    return json.dumps({**known, **more}, indent=4).encode()


def sample(key: str, caption: str = "A boat", **more: Any) -> dict[str, bytes]:
    return {f"{key}.jpg": jpg(), f"{key}.txt": caption.encode(), f"{key}.json": record(key, caption, **more)}


def pack(*samples: dict[str, bytes] | list[tuple[str, bytes]], mode: str = "w") -> bytes:
    """A tar of files, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for files in samples:
            for name, data in files.items() if isinstance(files, dict) else files:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def one(path: Path, *samples: dict[str, bytes] | list[tuple[str, bytes]]) -> list[Document | Unreadable]:
    """What is read of a tar of these."""
    path.write_bytes(pack(*samples))
    return list(WebDataset(path))
