"""Structured logs of a server: a JSON object a line for machines, or a line of words for a terminal, on stderr.

    a request comes -> its `Call`, that whoever works for it finds in `CALL` and adds to -> one line when it ends

A line has the request's id, the name of its API key, route, status, seconds, tokens and the time in the queue; no
key, no address of anyone, and no prompt unless prompts are asked for.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal

from cm3.document import Document, Text
from cm3.serve.problem import Problem

if TYPE_CHECKING:
    from cm3.serve.service import Work

LOGGERS = ("cm3.serve", "uvicorn", "asyncio", "python_multipart", "py.warnings")
"""Loggers whose lines are a server's."""
PROBES = ("/health", "/ready", "/metrics")
"""Routes that are asked every few seconds for ever."""
OTHER = "other"
"""The name of all paths that are no route."""

LOG = logging.getLogger("cm3.serve")


@dataclass(eq=False)
class Call:
    """A request as the log and the measures tell it, known better from step to step.

    key: the name of its API key. status: of its answer, 0 before that begins. problem: the error that was sent, be it
    in the middle of a stream. whole: whether the answer went out to its end. works: what the service did for it.
    """

    id: str
    method: str
    path: str
    key: str | None = None
    status: int = 0
    problem: Problem | None = None
    whole: bool = False
    works: list[Work] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Return the time since it came."""
        return time.monotonic() - self.began

    def tell(self, route: str, prompts: bool = False) -> None:
        """Write its line, with the words of its prompts if asked; of a probe that found all well, for debugging only.
        The path is in it only where it is no route."""
        told: dict[str, Any] = {"request_id": self.id, "method": self.method, "route": route}
        if route == OTHER:
            told["path"] = self.path[:200]
        told |= {"status": self.status, "seconds": round(self.seconds, 4)}
        rest = {
            "key": self.key,
            "error": self.problem and (self.problem.code or self.problem.body["error"]["type"]),
            "cut_off": not self.whole,
            "queue_seconds": sum(round(w.begun - w.arrived, 4) for w in self.works if w.begun is not None),
            "tokens": dict(sum((Counter(vars(w.usage)) for w in self.works), Counter())),
            "prompts": [words(document) for w in self.works for document in w.documents] if prompts else None,
        }
        told |= {name: value for name, value in rest.items() if value}
        level = logging.ERROR if self.status >= 500 else logging.INFO
        LOG.log(logging.DEBUG if route in PROBES and self.status < 400 else level, "request", extra={"fields": told})


CALL: ContextVar[Call | None] = ContextVar("call", default=None)
"""The request that the task at hand works for."""


def note(problem: Problem, error: BaseException | None = None) -> None:
    """Note in the request at hand which error it is answered with; of a fault of ours the log has the traceback."""
    call = CALL.get()
    if call is not None:
        call.problem = problem
    if problem.status == 500:
        LOG.error("request %s failed", call.id if call is not None else "?", exc_info=error)


def words(document: Document) -> str:
    """Return a prompt in words, with `<image>` for a picture and `<gap>` for what is to be made."""
    named = (part.text if isinstance(part, Text) else f"<{type(part).__name__.lower()}>" for part in document.parts)
    return " ".join(named)


class Lines(logging.Formatter):
    """Turn a record into one line of JSON, or of words."""

    def __init__(self, form: Literal["json", "text"]) -> None:
        super().__init__()
        self.form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line; of an error with a traceback the text form has its lines too."""
        fields = getattr(record, "fields", {})
        raised = self.formatException(record.exc_info) if record.exc_info else ""
        if self.form == "json":
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
            line = {"time": stamp, "level": record.levelname.lower(), "logger": record.name}
            line |= {"message": record.getMessage(), **fields} | ({"traceback": raised} if raised else {})
            return json.dumps(line, default=str)
        words = [time.strftime("%H:%M:%S", time.localtime(record.created)), f"{record.levelname:<7}"]
        words += [_word(record.getMessage()), *(f"{name}={_word(value)}" for name, value in fields.items())]
        return " ".join(words) + (f"\n{raised}" if raised else "")


def _word(value: object) -> str:
    """Write a value in one line, whatever a client put into it: control characters would move the cursor."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def set_up(form: Literal["json", "text"] = "text", stream: IO[str] | None = None) -> None:
    """Send the lines of a server, of uvicorn and of warnings to `stream`, by default stderr, each once.

    Give uvicorn `log_config=None, access_log=False`: its lines for requests are told here.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(Lines(form))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
