"""The playground's files as they are, each with its type, a tag for caches and a policy that lets in nothing else.

GET /              page/index.html
GET /page/NAME     a file beside it
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

import fastapi

if TYPE_CHECKING:
    from cm3.serve.service import Service

FRONT = "index.html"
TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
"""Types by the ending of a name: a file of another ending is not served."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing inline, and nothing from anywhere else."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Of every file. A cache asks each time, and is told 304 while the tag is the same."""


def router(service: Service) -> fastapi.APIRouter:
    """Serve the page. Its files are read once, so a name that is asked for never reaches the file system."""
    held = {}
    for path in files("cm3.serve").joinpath("page").iterdir():
        if kind := TYPES.get(path.name.rpartition(".")[2]):
            body = path.read_bytes()
            tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            held[path.name] = body, {**HEADERS, "Content-Type": kind, "ETag": tag}
    routes = fastapi.APIRouter()

    @routes.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    @routes.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page_file(request: fastapi.Request, name: str = FRONT) -> fastapi.Response:
        """Send a file, or that it has not changed."""
        if name not in held:
            raise fastapi.HTTPException(404, f"the page has no file {name[:60]!r}")
        body, headers = held[name]
        given = request.headers.get("if-none-match", "")
        if headers["ETag"] in (tag.strip().removeprefix("W/") for tag in given.split(",")):
            return fastapi.Response(status_code=304, headers=headers)
        return fastapi.Response(body, headers=headers)

    return routes
