"""Server-sent events: one JSON object each, under its name or without, and at the end `[DONE]`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from cm3.serve.logs import note
from cm3.serve.problem import problem_of

DONE = b"data: [DONE]\n\n"
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
"""What the description of a route says of its stream, beside its whole answer."""


async def event_stream(events: AsyncGenerator[Mapping[str, Any]], named: bool = True) -> StreamingResponse:
    """Return the answer that sends events as they come; `named` by their `type`.

    Awaits the first, so that what is refused before there is anything to tell is an error of its own status. What fails
    later is told by an event with the object of the error, and the stream ends.
    """
    try:
        first = await anext(events)
    except BaseException:
        await events.aclose()
        raise
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return _Events(events, _sent(first, events, named), media_type="text/event-stream", headers=headers)


class _Events(StreamingResponse):
    """An answer that ends what its events come from, also where it is left between two of them."""

    def __init__(self, events: AsyncGenerator[Mapping[str, Any]], sent: AsyncIterator[bytes], **options: Any) -> None:
        super().__init__(sent, **options)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


async def _sent(
    first: Mapping[str, Any], events: AsyncGenerator[Mapping[str, Any]], named: bool
) -> AsyncIterator[bytes]:
    try:
        yield _event(first, named)
        async for event in events:
            yield _event(event, named)
    except Exception as error:
        problem = problem_of(error)
        note(problem, error)
        yield _event({"type": "error", **problem.body}, named)
    yield DONE


def _event(event: Mapping[str, Any], named: bool) -> bytes:
    name = f"event: {event['type']}\n" if named else ""
    return f"{name}data: {json.dumps(event, separators=(',', ':'))}\n\n".encode()
