"""Limits of a server."""

from __future__ import annotations

from dataclasses import dataclass

from cm3.errors import real_number, whole_number


@dataclass(frozen=True)
class Settings:
    """Limits of what a server takes, and leave for what it need not do.

    queue: requests that wait or run at a time; one more gets 429.
    time_limit_s: seconds that the body of a request may take to come, and then its work; 408 or 504 after it. As many a
        part of an answer may wait for its client to read; one that does not is left.
    grace_s: seconds that what runs may take to finish when the server stops.
    body_mb, picture_mb: most megabytes (1e6 bytes) of a request, and of one picture in it.
    pixels: most pixels of a picture, by its header.
    keep_gb: gigabytes (1e9 bytes) of keys and values that stay for prompts that begin with what was read before.
    fetch: whether pictures may be given by an http(s) URL, which the server then loads. Private addresses never are.
    memory_writable: whether clients may add documents to the memory bank, and delete them.
    """

    queue: int = 64
    time_limit_s: float = 300.0
    grace_s: float = 30.0
    body_mb: float = 64.0
    picture_mb: float = 50.0
    pixels: int = 50_000_000
    keep_gb: float = 1.0
    fetch: bool = False
    memory_writable: bool = False

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a number out of range."""
        for name in ("queue", "pixels"):
            whole_number(f"serve.{name}", getattr(self, name))
        for name in ("time_limit_s", "body_mb", "picture_mb"):
            real_number(f"serve.{name}", float(getattr(self, name)), lambda x: x >= 1e-3, "at least 0.001")
        for name in ("grace_s", "keep_gb"):
            real_number(f"serve.{name}", float(getattr(self, name)), lambda x: x >= 0, "at least 0")
