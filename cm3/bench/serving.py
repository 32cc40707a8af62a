"""A server in a process of its own, and a client that costs little: with these serving is measured.

    with serving([sys.executable, "-m", "cm3", "serve", "--port", "0"]) as server:
        answer = await Client(server.url).ask("/v1/models")

The client keeps one connection and reads whole and chunked bodies, as uvicorn sends them; of HTTP/1.1 it knows no more.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cm3.errors import ConfigError

_ADDRESS = re.compile(rb"http://127\.0\.0\.1:\d+")


@dataclass
class Heard:
    """An answer. `pieces`: parts of the body as they came, each with its time in seconds of `time.monotonic`."""

    status: int
    headers: dict[str, str]
    pieces: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        """Return the body."""
        return b"".join(piece for _, piece in self.pieces)

    @property
    def json(self) -> Any:
        """Return the body as what it says in JSON."""
        return json.loads(self.data)

    @property
    def events(self) -> list[tuple[float, dict[str, Any]]]:
        """Return the objects of a stream of events, each with the time of the piece that ended it."""
        found, rest = [], b""
        for at, piece in self.pieces:
            *whole, rest = (rest + piece).split(b"\n\n")
            data = [line[6:] for one in whole for line in one.split(b"\n") if line.startswith(b"data: ")]
            found += [(at, json.loads(one)) for one in data if one != b"[DONE]"]
        return found


class Client:
    """One connection, opened when it is first used, and again where the server closed it."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, method: str = ""
    ) -> Heard:
        """Return the answer to a request, whole: GET without a body, else POST of JSON, unless something else is
        said."""
        async with aclosing(self.hear(path, body, headers, method)) as heard:
            *_, answer = [one async for one in heard]
        return answer

    async def hear(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, method: str = ""
    ) -> AsyncGenerator[Heard]:
        """Yield the answer as far as it came: its head first, then with each piece. Leaving it closes the connection.

        Raises `ConnectionError` or `asyncio.IncompleteReadError` where the server closes it.
        """
        reader, writer = await self._connected()
        kind = {} if body is None else {"content-type": "application/json", "content-length": str(len(body))}
        lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1"]
        given = {"host": self._place.netloc, **kind, **(headers or {})}
        lines += [f"{name}: {value}" for name, value in given.items()]
        whole = False
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
            await writer.drain()
            status, *head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
            named = dict(line.split(": ", 1) for line in head)
            answer = Heard(int(status.split()[1]), {name.lower(): value for name, value in named.items()})
            yield answer
            if answer.headers.get("transfer-encoding") == "chunked":
                while size := int(await reader.readline(), 16):
                    answer.pieces.append((time.monotonic(), (await reader.readexactly(size + 2))[:-2]))
                    yield answer
                await reader.readline()
            else:
                data = await reader.readexactly(int(answer.headers.get("content-length", 0)))
                answer.pieces.append((time.monotonic(), data))
                yield answer
            whole = answer.headers.get("connection") != "close"
        finally:
            if not whole:
                self.close()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are, and read nothing."""
        _, writer = await self._connected()
        writer.write(data)
        await writer.drain()

    def close(self) -> None:
        """Close the connection, whatever is under way on it."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection(self._place.hostname, self._place.port, limit=1 << 20)
        return self._streams


class Server:
    """A process that serves. `url` has no slash at its end."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process, self.url = process, url

    @property
    def cpu_s(self) -> float | None:
        """Return the seconds of the processor that it took so far; None where the system does not tell."""
        try:
            with open(f"/proc/{self.process.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except FileNotFoundError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self) -> int | None:
        """Return the bytes of memory that it holds; None where the system does not tell."""
        try:
            with open(f"/proc/{self.process.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except FileNotFoundError:
            return None


@contextmanager
def serving(command: Sequence[str], env: Mapping[str, str] | None = None, patience: float = 120.0) -> Iterator[Server]:
    """Run a command until it says an address on the loopback; at the end stop it, and wait for it.

    Raises `ConfigError` with the last line that it wrote where it ends before, or says nothing for `patience` seconds.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
        try:
            end = time.monotonic() + patience
            while (found := _ADDRESS.search(_written(log))) is None:
                if process.poll() is not None or time.monotonic() > end:
                    last = (_written(log).decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
                    raise ConfigError(f"{' '.join(command)}: serves nothing; the last that it said: {last[:300]}")
                time.sleep(0.02)
            yield Server(process, found[0].decode())
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _written(log: Any) -> bytes:
    # The process writes at the end of the same open file, so reading must not move its place.
    return os.pread(log.fileno(), 1 << 20, 0)
