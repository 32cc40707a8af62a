"""Replicas of a server on Ray Serve: the same application in so many processes, each with a model of its own.

    client -> Ray's proxy -> the replica with fewer requests of two -> create_app's application

Each replica has its own queue, cache, limits of keys, measures and memory bank in use: with N replicas a key may ask up
to N times as much, and a document that a client adds is found by the replica that took the request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cm3.data.cluster import join
from cm3.errors import ConfigError
from cm3.files import said
from cm3.serve.limits import Settings
from cm3.serve.run import KEEP_ALIVE_S, address, listening

NAME = "cm3"
"""The name of the application on Ray Serve."""
_PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60"}
"""Seconds that the proxy of a cluster of our own may take to answer Ray: after its own 5 and 10 the proxy of a busy
machine is ended, and the server does not start."""
_BESIDE = 256
"""Requests that a replica holds beside those of its queue: it refuses them by itself, in the interface's form."""


class Replica:
    """The part of a process that Ray asks beside its requests."""

    app: FastAPI

    def check_health(self) -> None:
        """Raise RuntimeError where the engine's thread is dead: Ray starts another replica then."""
        if not self.app.state.service.loop.alive:
            raise RuntimeError("the engine's thread is dead")


class Unnamed:
    """An ASGI application that leaves x-request-id to Ray's proxy, which sends one of its own: the one it was given, or
    made, and handed on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await self._app(scope, receive, answer)


@contextmanager
def _patient() -> Iterator[None]:
    """Give `_PATIENCE` to processes that Ray starts meanwhile, where nothing else is said."""
    ours = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def replicas(
    build: Callable[[str], FastAPI],
    count: int,
    host: str,
    port: int,
    settings: Settings,
    *,
    cluster: str = "local",
    cores: int = 1,
    graphics: int = 0,
) -> Iterator[str]:
    """Serve from `count` replicas while the block runs, and give the address; at its end what runs may finish.

    `build` is called in each replica, with its name. `cores`, `graphics`: CPU cores and GPUs of one. `cluster` is an
    address of Ray, or `local` for a cluster in this machine; one that this process has joined is taken as it is. Port 0
    is a free one. Raises `ConfigError` where the cluster is not reached, where Ray Serve is in use there, where the
    port is taken, and where replicas do not start.
    """
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    joined = ray.is_initialized()
    if not joined:
        with _patient():
            join(ray, cluster, count * cores, told=True)
    try:
        if others := ", ".join(serve.status().applications):
            raise ConfigError(f"--cluster {cluster}: Ray Serve serves {others} there; stop it, or take another cluster")
        with listening(host, port) as place:
            port, url = place.getsockname()[1], address(place)
        quiet: dict[str, Any] = {"log_level": "WARNING", "enable_access_log": False}
        where = "HeadOnly" if cluster == "local" else "EveryNode"
        options = {"host": host, "port": port, "keep_alive_timeout_s": KEEP_ALIVE_S}
        try:
            serve.start(proxy_location=where, http_options=options, logging_config=quiet)
            serve.run(_deployment(serve, build, count, settings, quiet, cores, graphics), name=NAME, route_prefix="/")
        except (RuntimeError, ray.exceptions.RayError) as error:  # the latter where Ray's proxy does not start in time
            raise ConfigError(f"--ray: the replicas do not start ({_reason(serve) or said(error)})") from error
        try:
            yield url
        finally:
            serve.delete(NAME)  # returns when what runs there is done
    finally:
        if joined or cluster != "local":
            serve.shutdown()
        if not joined:
            ray.shutdown()  # of a cluster of our own, all of it


def _deployment(
    serve: Any, build: Callable[[str], FastAPI], count: int, settings: Settings, quiet: Any, cores: int, graphics: int
) -> Any:
    def built() -> FastAPI:
        app = build(serve.get_replica_context().replica_id.unique_id)
        app.add_middleware(Unnamed)
        return app

    return serve.deployment(
        serve.ingress(built)(Replica),
        name="Replica",
        num_replicas=count,
        max_constructor_retry_count=1,
        max_ongoing_requests=settings.queue + _BESIDE,
        graceful_shutdown_timeout_s=settings.grace_s,
        logging_config=quiet,
        ray_actor_options={"num_cpus": cores, "num_gpus": graphics},
    ).bind()


def _reason(serve: Any) -> str:
    """Return the last line of what Ray knows of a deployment that failed: the error of a replica."""
    deployments = [d for app in serve.status().applications.values() for d in app.deployments.values()]
    lines = [line.strip() for d in deployments for line in d.message.splitlines() if line.strip()]
    return lines[-1] if lines else ""
