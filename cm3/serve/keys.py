"""API keys: who asks, and how much of it in a minute.

lines of a file and of CM3_API_KEYS -> keys, as hashes -> Authorization: Bearer -> a key, or 401 -> its limits, or 429

    # NAME KEY [requests-per-minute N] [pictures-per-minute N] [concurrent N]
    studio  kS3_a-long-secret-of-yours  requests-per-minute 60  pictures-per-minute 20  concurrent 4
    page    sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

A file that has changed is read again, as a whole, when the next request comes; one that is wrong changes nothing.
Whoever holds a key's SHA-256 cannot use it, so that a file of `sha256:` lines need not be kept secret. A limit that is
not given is none. Everything here belongs to one thread, the server's event loop.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cm3.errors import ConfigError, did_you_mean, shown, whole_number
from cm3.serve.problem import Problem

ENVIRONMENT = "CM3_API_KEYS"
"""The variable with further lines, each ended by a line break or a semicolon."""
LIMITED = "rate_limit_exceeded"
"""The code of the error past a limit of a key."""
LIMITS = ("requests-per-minute", "pictures-per-minute", "concurrent")

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,256}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_MOST = 1_000_000
_SHORT = 1e-6
"""Seconds that are no wait: the rounding of clocks that have run for years."""

LOG = logging.getLogger("cm3.serve")
Clock = Callable[[], float]


class Bucket:
    """So many things a minute: all of them at once, and then as they come back, evenly.

    `clock` gives seconds that never go back. Of a bucket, one number is kept: when it is full again.
    """

    def __init__(self, a_minute: int, clock: Clock) -> None:
        self.size, self._each, self._clock = a_minute, 60 / a_minute, clock
        self._full = clock()

    @property
    def reset(self) -> float:
        """Return the seconds until it is full."""
        return max(0.0, self._full - self._clock())

    @property
    def left(self) -> int:
        """Count the things that may be taken now."""
        return min(self.size, math.floor(self.size - (self.reset - _SHORT) / self._each))

    def wait(self, count: int) -> float:
        """Return the seconds until `count` things, `size` at most, may be taken."""
        short = self.reset - (self.size - count) * self._each
        return short if short > _SHORT else 0.0

    def take(self, count: int) -> None:
        """Take things that `wait` says are there."""
        self._full = max(self._full, self._clock()) + count * self._each


@dataclass(eq=False)
class Key:
    """One who may ask: a name for the log, and what is left of the limits."""

    name: str
    requests: Bucket | None = None
    pictures: Bucket | None = None
    concurrent: int | None = None
    running: int = field(default=0, init=False)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold one of the requests that may run at a time. Raises `Problem` 429 past a limit; then none is counted."""
        if self.concurrent is not None and self.running >= self.concurrent:
            raise self._over("requests", f"{self.concurrent} at a time", 1.0)
        if self.requests is not None:
            if wait := self.requests.wait(1):
                raise self._over("requests", f"{self.requests.size} a minute", wait)
            self.requests.take(1)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def draw(self, pictures: int) -> None:
        """Take so many pictures of this minute's. Raises `Problem`: 429 where they have to wait, 400 where they are
        more than a minute's and would wait for ever."""
        if self.pictures is None or not pictures:
            return
        if pictures > self.pictures.size:
            rule = f"this API key may draw {self.pictures.size} a minute; ask for fewer at a time"
            raise Problem(400, f"n: {pictures} pictures, and {rule}", param="n", code=LIMITED)
        if wait := self.pictures.wait(pictures):
            raise self._over("pictures", f"{self.pictures.size} a minute", wait)
        self.pictures.take(pictures)

    def become(self, other: Key) -> None:
        """Take the name and the limits of another; of a limit that stays the same, what is used stays used."""
        self.name, self.concurrent = other.name, other.concurrent
        if _size(self.requests) != _size(other.requests):
            self.requests = other.requests
        if _size(self.pictures) != _size(other.pictures):
            self.pictures = other.pictures

    @property
    def headers(self) -> dict[str, str]:
        """Tell what is left of the limits a minute, in the headers that clients know."""
        told = {}
        for name, bucket in (("requests", self.requests), ("images", self.pictures)):
            if bucket is not None:
                told[f"x-ratelimit-limit-{name}"] = str(bucket.size)
                told[f"x-ratelimit-remaining-{name}"] = str(max(0, bucket.left))
                told[f"x-ratelimit-reset-{name}"] = f"{bucket.reset:.3f}s"
        return told

    def _over(self, what: str, rule: str, wait: float) -> Problem:
        seconds = math.ceil(wait)
        return Problem(
            429,
            f"{what}: this API key may ask for {rule}; try again in {seconds} s",
            code=LIMITED,
            headers={"Retry-After": str(seconds), **self.headers},
        )


class Keys:
    """All keys of a server. None at all: everyone may ask, without limits."""

    def __init__(
        self, keys: Iterable[tuple[bytes, Key]] = (), file: Path | None = None, again: Callable[[], Keys] | None = None
    ) -> None:
        """Take keys by their hashes, and where they come from: a file, and what reads it `again`."""
        self._keys, self._file, self._again = list(keys), file, again
        self._stamp = _stamp(file)  # before it is read: what is written from here on is a change

    @classmethod
    def read(cls, file: str | Path | None = None, environment: str = "", clock: Clock = time.monotonic) -> Keys:
        """Read the keys of a file and of a variable's text. Raises `ConfigError` for a line that is wrong, by its
        number and never with the key in it; a file with keys that all users may read is told in the log."""
        made = cls((), None if file is None else Path(file), lambda: cls.read(file, environment, clock))
        lines = []
        if file is not None:
            lines += [(f"{file}:{n}", line) for n, line in enumerate(_text(Path(file)).splitlines(), 1)]
        lines += [(f"{ENVIRONMENT}, entry {n}", line) for n, line in enumerate(re.split("[;\n]", environment), 1)]
        keys: dict[bytes, Key] = {}
        for where, line in lines:
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            digest, key = _key(where, words, clock)
            if digest in keys:
                raise ConfigError(f"{where}: has the key of {keys[digest].name!r}; give each name a key of its own")
            if any(key.name == other.name for other in keys.values()):
                raise ConfigError(f"{where}: has the name {key.name!r} again; give each key a name of its own")
            keys[digest] = key
        if not keys and (file is not None or environment.strip()):
            raise ConfigError(f"{file or ENVIRONMENT}: holds no key; write lines of NAME KEY, or leave it out")
        made._keys = list(keys.items())
        return made

    def refresh(self) -> None:
        """Read the file again where it has changed since. One that is wrong leaves the keys as they are, which is told
        in the log; keys that it still has go on with what they used of their limits."""
        if self._again is None or (stamp := _stamp(self._file)) == self._stamp:
            return
        self._stamp = stamp
        try:
            found = self._again()
        except ConfigError as error:
            LOG.error("%s; the API keys stay as they were", error)
            return
        known = dict(self._keys)
        for digest, key in found._keys:
            known.setdefault(digest, key).become(key)
        self._keys = [(digest, known[digest]) for digest, _ in found._keys]
        LOG.info("%s: was read again, and there are %d API keys", self._file, len(self))

    @property
    def text(self) -> str:
        """Return them for `read` elsewhere, as a variable's text with hashes in the place of keys."""
        lines = []
        for digest, key in self._keys:
            numbers = (key.requests and key.requests.size, key.pictures and key.pictures.size, key.concurrent)
            limits = [f" {limit} {number}" for limit, number in zip(LIMITS, numbers, strict=True) if number is not None]
            lines.append(f"{key.name} sha256:{digest.hex()}" + "".join(limits))
        return ";".join(lines)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, authorization: str | None) -> Key | None:
        """Return whose key an Authorization header brings; None where the server has no keys.

        Raises `Problem` 401, the same for none and for a wrong one. All hashes are compared, each in constant time.
        """
        self.refresh()
        if not self._keys:
            return None
        scheme, _, secret = (authorization or "").strip().partition(" ")
        digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).digest()
        found = [key for known, key in self._keys if hmac.compare_digest(known, digest)]
        if not found or scheme.lower() != "bearer":
            raise Problem(
                401,
                "Authorization: a valid API key is needed; send the header 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found[0]


def _size(bucket: Bucket | None) -> int | None:
    return None if bucket is None else bucket.size


def _stamp(file: Path | None) -> tuple[int, ...] | None:
    """Return what changes with a file, None where it cannot be seen."""
    try:
        found = None if file is None else file.stat()
    except OSError:
        return None
    return found and (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _text(file: Path) -> str:
    try:
        mode, text = file.stat().st_mode, file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "is no UTF-8"
        raise ConfigError(f"{file}: the file of API keys cannot be read ({said})") from error
    if mode & stat.S_IROTH:
        LOG.warning("%s: every user of this machine may read these API keys; run chmod o-r on it", file)
    return text


def _key(where: str, words: list[str], clock: Clock) -> tuple[bytes, Key]:
    if not _NAME.fullmatch(words[0]):
        raise ConfigError(f"{where}: name {shown(words[0])}: must be 1 to 64 of A-Z a-z 0-9 . _ -")
    name = words[0]
    if len(words) < 2:
        raise ConfigError(f"{where}: {name!r} has no key; write NAME KEY, and limits after it")
    if hashed := _HASH.fullmatch(words[1]):
        digest = bytes.fromhex(hashed[1])
    elif _KEY.fullmatch(words[1]):
        digest = hashlib.sha256(words[1].encode()).digest()
    else:
        rule = "16 to 256 of A-Z a-z 0-9 . _ ~ + / = -, or sha256: and 64 hexadecimal digits"
        raise ConfigError(f"{where}: the key of {name!r} must be {rule}")
    limits: dict[str, int] = {}
    for limit, number in zip(words[2::2], [*words[3::2], ""], strict=False):
        if limit not in LIMITS:
            raise ConfigError(
                f"{where}: limit {shown(limit)}: is none of {', '.join(LIMITS)}.{did_you_mean(limit, LIMITS)}"
            )
        if limit in limits:
            raise ConfigError(f"{where}: limit {limit} is given twice; give it once")
        whole = int(number) if re.fullmatch("[0-9]{1,9}", number) else number
        limits[limit] = whole_number(f"{where}: limit {limit}", whole, high=_MOST)
    a_minute = {limit: Bucket(n, clock) for limit, n in limits.items() if limit != "concurrent"}
    return digest, Key(name, a_minute.get(LIMITS[0]), a_minute.get(LIMITS[1]), limits.get("concurrent"))
