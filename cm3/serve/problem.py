"""Errors in the form of the interface: a status, and an object that names the field.

    {"error": {"message": "...", "type": "invalid_request_error", "param": "guidance", "code": null}}

Clients try again after 408, 409, 429 and 5xx unless told otherwise; so what will be refused again is a 400.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cm3.engine.request import Dropped
from cm3.errors import ConfigError, DataError, RequestError, shown

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""Types of errors by status; others are of the request below 500, and of the server from there on."""
AGAIN = {"x-should-retry": "false"}
"""The header that tells clients not to try again."""
_ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": [*KINDS.values(), "invalid_request_error", "server_error"]},
                "param": {"type": ["string", "null"], "description": "The field that it is about."},
                "code": {"type": ["string", "null"], "description": "A word for programs."},
            },
        }
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": said, "content": {"application/json": {"schema": _ERROR}}}
    for status, said in {"4XX": "The request's fault", "5XX": "The server's fault, or it stops"}.items()
}
"""The errors of every route, for the description of the interface."""
LONGEST_NAME = 200
"""Most characters of a field's name in an error."""
_NAMED = re.compile(r"(?:sampling\.)?([a-z_]+)(?:[=:]|\[\d+\])")
_NOT_FIELDS = {
    "document",
    "documents",
    "request",
    "engine",
    "model",
    "bundle",
    "picture",
    "image",
    "task",
    "kind",
    "error",
    "each",
}
_PARTS = (("body",), ("query",), ("path",), ("header",))


class Problem(Exception):
    """An error that is told to the client. `param`: the field that it is about; `code`: a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {**(AGAIN if status >= 500 and status != 503 else {}), **(headers or {})}

    @property
    def body(self) -> dict[str, Any]:
        """Return the object that is sent."""
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def problem_of(error: Exception) -> Problem:
    """Return an error of the library as one of the interface: what the input caused is a 400 and says it in words,
    anything else a 500 that says nothing of the inside."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestError | ConfigError | DataError) and not isinstance(error, Dropped):
        named = _NAMED.match(str(error))
        param = named[1] if named and named[1] not in _NOT_FIELDS else None
        return Problem(400, str(error), param)
    return Problem(500, "the server failed at this request; its log says more, by the id in x-request-id")


def refused_fields(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Return the 400 for what pydantic found wrong with a request: the first of it, by the path of the field."""
    first = errors[0]
    # The first step is the part of the request, "body"; steps of a union are names of classes, which clients never see.
    path = first["loc"][1:] if first["loc"][:1] in _PARTS else first["loc"]
    if first["type"] == "unknown":  # of a whole body, with a field that is much like one of its own
        path = (*path, first["ctx"]["name"])
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".") or None
    if param is not None and not (param.isprintable() and len(param) <= LONGEST_NAME):
        param = shown(param)
    if first["type"] == "json_invalid":
        return Problem(400, f"the body is no JSON ({first['msg']}); send one JSON object", None, "invalid_json")
    if first["type"] == "unknown":
        hint = first["ctx"]["hint"]
        return Problem(400, f"{param}: is no field of this request.{hint}", param, "unknown_parameter")
    if param is None and isinstance(first.get("input"), bytes):  # FastAPI reads no JSON without the type
        message = "the body is not sent as JSON; send the header 'Content-Type: application/json'"
        return Problem(415, message, None, "unsupported_media_type")
    if param is None and first["type"] in ("model_attributes_type", "model_type", "dict_type"):
        return Problem(400, f"the body is {shown(first.get('input'))}; send one JSON object", None, "invalid_json")
    if first["type"] == "extra_forbidden":
        name = param or shown("")
        return Problem(400, f"{name}: is no field of this request; leave it out", param, "unknown_parameter")
    if first["type"] == "missing":
        return Problem(
            400, f"{param or 'body'}: is missing; this request needs it", param, "missing_required_parameter"
        )
    said = str(first["msg"]).removeprefix("Value error, ")
    return Problem(400, f"{param or 'body'}={shown(first.get('input'))}: {said[:1].lower()}{said[1:]}", param)
