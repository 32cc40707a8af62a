"""Serving an application with uvicorn, until a signal stops it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from cm3.errors import ConfigError
from cm3.serve.service import Service

KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays: longer than a proxy's 60, so that the proxy is the one that closes it."""


class Server(uvicorn.Server):
    """Uvicorn's, which says where it listens, and at a signal lets the service end what runs."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self._service, self._told = service, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell the address."""
        await super().startup(sockets)
        if self.started:
            self._told(address(self.servers[0].sockets[0]))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, end what runs within the grace, and stop; at a second Ctrl-C stop at once."""
        draining = asyncio.ensure_future(self._service.drain())
        await super().shutdown(sockets)  # its end is the application's, which closes the service
        if self.force_exit:  # then that is still to come
            await self._service.drain(grace_s=0)
            await self.lifespan.shutdown()
        await draining


def serve(app: FastAPI, service: Service, place: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve at a bound socket until SIGINT or SIGTERM, which are passed on at the end. `ready` gets the address."""
    Server(config(app, service), service, ready).run(sockets=[place])


def config(app: FastAPI, service: Service) -> uvicorn.Config:
    """Return uvicorn's settings: no logs of its own but errors, and time for what runs to end."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(service.settings.grace_s) + 5,
    )


def address(place: socket.socket) -> str:
    """Return the URL of a socket that is bound."""
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, so that an address that is not to be had is told before a model is loaded.

    Raises `ConfigError`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = socket.socket(family, socket.SOCK_STREAM)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((host, port))
    except (OSError, OverflowError) as error:
        place.close()
        if isinstance(error, OverflowError):
            raise ConfigError(f"port {port}: ports are 0 to 65535; 0 takes a free one") from error
        rule = "; take another port, or 0 for a free one" if error.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"{host}:{port}: cannot listen there ({error.strerror}){rule}") from error
    return place
