"""`cm3 serve`: a model behind HTTP, in the form that image clients speak, and a page to play on."""

from __future__ import annotations

import importlib
import ipaddress
import logging
import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from cm3.cli.options import HERE, Bank, Flag, ModelVerb, at_least
from cm3.errors import ConfigError
from cm3.train.signals import Terminated

if TYPE_CHECKING:
    from fastapi import FastAPI

    from cm3.serve.keys import Keys
    from cm3.serve.limits import Settings
    from cm3.serve.service import Service

LOG = logging.getLogger("cm3.serve")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the server."""

    queue: Annotated[int, arg(metavar="N")] = 64
    """Requests that wait or run at a time; one more is told to come again (429)."""
    streams: Annotated[int, arg(metavar="N")] = 64
    """Prompts that the engine runs side by side; a guided picture takes two or three."""
    time_limit: Annotated[float, arg(metavar="SECONDS")] = 300.0
    """The longest that an answer may take."""
    grace: Annotated[float, arg(metavar="SECONDS")] = 30.0
    """How long what runs may go on when the server is told to stop."""
    body_mb: Annotated[float, arg(metavar="MB")] = 64.0
    """Longest request, in megabytes."""
    keep_gb: Annotated[float, arg(metavar="GB")] = 1.0
    """Gigabytes of what was read that stay for prompts that begin with it, as a chat's next turn does, whoever asks; 0
    keeps nothing."""
    fetch: Flag = False
    """Load pictures that requests name by URL. Private addresses are refused all the same."""
    memory_writable: Flag = False
    """Let clients add documents to the memory bank, and delete them."""

    def settings(self) -> dict[str, Any]:
        """Return them as fields of `cm3.serve.limits.Settings`."""
        at_least(1, queue=self.queue, streams=self.streams)
        at_least(0.001, time_limit=self.time_limit, body_mb=self.body_mb)
        at_least(0, grace=self.grace, keep_gb=self.keep_gb)
        named = {"time_limit": "time_limit_s", "grace": "grace_s"}
        return {named.get(name, name): value for name, value in vars(self).items() if name != "streams"}


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Keys of those who may ask, and the log."""

    keys: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="(default: everyone may ask)")] = None
    """File of API keys, a line each: NAME KEY [requests-per-minute N] [pictures-per-minute N] [concurrent N]. It is
    read again when it changes. The variable CM3_API_KEYS has further lines."""
    log: Annotated[Literal["text", "json"], arg(metavar="text|json")] = "text"
    """The form of the log, on stderr: a line of words for each request, or a JSON object."""
    log_prompts: Flag = False
    """Write the words of prompts into the log too."""
    allow_host: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME", help_behavior_hint="")] = ()
    """A name by which it may be asked, such as a proxy's; once for each. For this machine alone and without keys they
    are localhost and its address: a page from elsewhere could lead a name of its own here."""

    def hosts(self, host: str, keys: Keys) -> frozenset[str] | None:
        """Return the names by which a server at an address may be asked, None for any."""
        if self.allow_host or (loopback(host) and not len(keys)):
            return frozenset({host, "localhost", "127.0.0.1", "::1", *map(str.lower, self.allow_host)})
        return None


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """Several processes, on Ray Serve."""

    ray: Flag = False
    """Serve from replicas on Ray Serve, each with a model of its own, and for --device cuda a GPU of its own."""
    replicas: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 2)")] = None
    """With --ray: how many."""
    cluster: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="(default: local)")] = None
    """With --ray: the Ray cluster, ray://HOST:10001, on a node of it HOST:6379, or local for one of this machine."""


@dataclass(frozen=True, kw_only=True)
class Serve(ModelVerb):
    """Serve a model over HTTP: images, chat and responses as OpenAI's clients ask for them, and a page to play on.

    The page is at the address that is printed. SIGTERM or Ctrl-C stops it: what runs may finish first.

    examples:
      cm3 serve
      cm3 serve my-bundle --port 8080 --host 0.0.0.0
      cm3 serve hf://OWNER/NAME --device cuda --queue 256
      cm3 serve --host 0.0.0.0 --keys keys.txt --log json
      cm3 serve --ray --replicas 4
      curl http://127.0.0.1:8000/v1/images/generations --json '{"prompt": "a red circle"}'
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")] = "stickers"
    """The model: a name (stickers or scenes, in the package), a bundle's folder, or hf://OWNER/NAME."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen on. 0.0.0.0 is every one that this machine has: whoever reaches it may ask."""
    port: Annotated[int, arg(metavar="N")] = 8000
    """Port to listen on; 0 takes a free one."""
    limits: Annotated[Limits, HERE] = Limits()
    bank: Annotated[Bank, HERE] = Bank()
    operations: Annotated[Operations, HERE] = Operations()
    on: Annotated[Replicas, HERE] = Replicas()

    def run(self) -> dict[str, Any]:
        """Load the model, warm it up, and serve until a signal comes."""
        require("pip install 'cm3leon[serve]'", "fastapi", "uvicorn", "python_multipart", "prometheus_client")
        from cm3.serve.app import create_app
        from cm3.serve.keys import ENVIRONMENT, Keys
        from cm3.serve.limits import Settings
        from cm3.serve.logs import set_up
        from cm3.serve.run import listening, serve

        settings = Settings(**self.limits.settings())
        self._check()
        set_up(self.operations.log)
        keys = Keys.read(self.operations.keys, os.environ.get(ENVIRONMENT, ""))
        if not len(keys) and not loopback(self.host):
            LOG.warning("whoever reaches %s may ask; give --keys FILE to know who it is", self.host)
        if self.on.ray:
            return self._on_ray(settings, keys)
        url, model = "", self.model

        def ready(where: str) -> None:
            nonlocal url
            url = where
            print(f"{model} is served at {where}", flush=True)

        try:
            with listening(self.host, self.port) as place:
                service = self._service(settings)
                model = service.name
                names = self.operations.hosts(self.host, keys)
                app = create_app(service, keys, self.operations.log_prompts, hosts=names)
                serve(app, service, place, ready)
        except (Terminated, KeyboardInterrupt):  # uvicorn passes the signal on when it is done
            print("cm3: stopped; nothing runs any more", file=sys.stderr)
        return {"model": model, "url": url}

    def _check(self) -> None:
        """Raise `ConfigError` for an option without the one that it is for."""
        if self.limits.memory_writable and self.bank.memory is None:
            raise ConfigError("--memory-writable: a bank of the model's own stays as it is; give one with --memory DIR")
        for name in ("replicas", "cluster"):
            if (value := getattr(self.on, name)) is not None and not self.on.ray:
                raise ConfigError(f"--{name} {value}: is for replicas on Ray Serve; give --ray, or leave it out")

    def _service(self, settings: Settings) -> Service:
        from cm3.serve.service import Service

        model = self.open_model(self.bank, max_streams=self.limits.streams)
        if self.bank.memory is not None:  # one that is not there is told here, and not to those who ask
            model.retrieve("a picture", 1)
        service = Service(model, settings)
        service.warm_up()
        return service

    def _on_ray(self, settings: Settings, keys: Keys) -> dict[str, Any]:
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # before Ray is imported: it leaves out lines that are much alike
        require("pip install 'cm3leon[replicas]'", "ray.serve")
        from cm3.model.bundle import find
        from cm3.serve.replicas import replicas

        count, cluster = 2 if self.on.replicas is None else self.on.replicas, self.on.cluster or "local"
        at_least(1, replicas=count)
        device = self.place.device
        if device.startswith("cuda:"):
            raise ConfigError(f"--device {device}: with --ray each replica has a GPU of its own; give --device cuda")
        name, hashed = find(self.model).name, keys.text  # a model that is not there is told before Ray starts

        def build(replica: str) -> FastAPI:
            from cm3.serve.app import create_app
            from cm3.serve.keys import Keys
            from cm3.serve.logs import set_up

            self.common.use_threads()
            set_up(self.operations.log)
            keys = Keys.read(None, hashed)
            names = self.operations.hosts(self.host, keys)
            return create_app(self._service(settings), keys, self.operations.log_prompts, replica, names)

        url, cores, graphics = "", self.common.threads, int(device == "cuda")
        served = replicas(build, count, self.host, self.port, settings, cluster=cluster, cores=cores, graphics=graphics)
        try:
            with served as url:
                print(f"{name} is served at {url} by {count} replicas", flush=True)
                threading.Event().wait()
        except (Terminated, KeyboardInterrupt):
            print("cm3: stopped; nothing runs any more", file=sys.stderr)
        return {"model": name, "url": url, "replicas": count}


def loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require(remedy: str, *modules: str) -> None:
    """Raise `ConfigError` for the first module that is not installed, with the command that brings it."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"cm3 serve needs {module}, which is not installed: {remedy}") from error
