"""`cm3 serve`: a model behind HTTP, in the form that image clients speak, and a page to play on."""

from __future__ import annotations

import importlib
import logging
import sys
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from cm3.cli.options import HERE, Bank, Flag, ModelVerb, at_least
from cm3.errors import ConfigError
from cm3.train.signals import Terminated


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
    fetch: Flag = False
    """Load pictures that requests name by URL. Private addresses are refused all the same."""
    memory_writable: Flag = False
    """Let clients add documents to the memory bank, and delete them."""

    def settings(self) -> dict[str, Any]:
        """Return them as fields of `cm3.serve.limits.Settings`."""
        at_least(1, queue=self.queue, streams=self.streams)
        named = {"time_limit": "time_limit_s", "grace": "grace_s"}
        return {named.get(name, name): value for name, value in vars(self).items() if name != "streams"}


@dataclass(frozen=True, kw_only=True)
class Serve(ModelVerb):
    """Serve a model over HTTP: images, chat and responses as OpenAI's clients ask for them, and a page to play on.

    The page is at the address that is printed. SIGTERM or Ctrl-C stops it: what runs may finish first.

    examples:
      cm3 serve
      cm3 serve my-bundle --port 8080 --host 0.0.0.0
      cm3 serve hf://OWNER/NAME --device cuda --queue 256
      curl http://127.0.0.1:8000/v1/images/generations --json '{"prompt": "a red circle"}'
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")] = "scenes"
    """The model: a name (scenes, in the package), a bundle's folder, or hf://OWNER/NAME."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen on. 0.0.0.0 is every one that this machine has: whoever reaches it may ask."""
    port: Annotated[int, arg(metavar="N")] = 8000
    """Port to listen on; 0 takes a free one."""
    limits: Annotated[Limits, HERE] = Limits()
    bank: Annotated[Bank, HERE] = Bank()

    def run(self) -> dict[str, Any]:
        """Load the model, warm it up, and serve until a signal comes."""
        require("fastapi", "uvicorn", "multipart", "prometheus_client", extra="serve")
        from cm3.serve.app import create_app
        from cm3.serve.limits import Settings
        from cm3.serve.run import serve
        from cm3.serve.service import Service

        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="cm3: %(message)s")
        settings = Settings(**self.limits.settings())
        service = Service(self.open_model(self.bank), settings)
        service.warm_up()
        url = ""

        def ready(where: str) -> None:
            nonlocal url
            url = where
            print(f"{service.name} is served at {where}", flush=True)

        try:
            serve(create_app(service), service, self.host, self.port, ready)
        except (Terminated, KeyboardInterrupt):  # uvicorn passes the signal on when it is done
            print("cm3: stopped; nothing runs any more", file=sys.stderr)
        return {"model": service.name, "url": url}


def require(*modules: str, extra: str) -> None:
    """Raise `ConfigError` for the first module that is not installed, with the extra that brings it."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"cm3 serve needs {module}; pip install 'cm3leon[{extra}]'") from error
