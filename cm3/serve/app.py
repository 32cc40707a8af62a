"""The ASGI application: routes, and what becomes of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import compile_path

from cm3.errors import Cm3Error
from cm3.serve import bank, chat, images, page_files, responses
from cm3.serve.gate import Gate
from cm3.serve.guard import Guard
from cm3.serve.keys import Keys
from cm3.serve.logs import note
from cm3.serve.problem import ERRORS, Problem, problem_of, refused_fields
from cm3.serve.prometheus import Metrics
from cm3.serve.served_model import models
from cm3.serve.service import Service


def create_app(
    service: Service,
    keys: Keys | None = None,
    log_prompts: bool = False,
    replica: str = "",
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Return the application of a service, which it starts and closes with itself.

    Without `keys` everyone may ask. `log_prompts`: whether the log has the words of prompts. `replica`: the name of the
    server, where it is one of several. `hosts`: the names by which it may be asked, None any.
    """
    metrics = Metrics(service.name, replica)
    metrics.watch(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.close()

    # The pages of FastAPI's own load their scripts from elsewhere, so there are none; /openapi.json is there.
    app = FastAPI(
        title="CM3Leon", version=version("cm3leon"), lifespan=lifespan, responses=ERRORS, docs_url=None, redoc_url=None
    )
    app.state.service = service
    app.router.redirect_slashes = False  # to an address that the client names, and in no form of the interface
    app.add_middleware(Guard, service=service)
    app.add_middleware(Gate, keys=keys or Keys(), metrics=metrics, log_prompts=log_prompts, hosts=hosts)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(Cm3Error, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)
    parts = (images, chat, responses, bank, page_files)
    for routes in (health(service), metrics.routes(), models(service), *(part.router(service) for part in parts)):
        app.include_router(routes)
    return app


def health(service: Service) -> APIRouter:
    """Return the routes that tell whether the server lives, and whether it takes requests."""
    routes = APIRouter(tags=["operations"])

    @routes.head("/health", include_in_schema=False)  # as some load balancers ask
    @routes.get("/health")
    async def alive() -> JSONResponse:
        """Tell whether the engine's thread lives: 200, or 503."""
        return JSONResponse({"status": "ok" if service.loop.alive else "dead"}, 200 if service.loop.alive else 503)

    @routes.head("/ready", include_in_schema=False)
    @routes.get("/ready")
    async def ready() -> JSONResponse:
        """Tell whether requests are taken: 200, or 503 while it starts and stops."""
        return JSONResponse({"status": "ready" if service.ready else "not ready"}, 200 if service.ready else 503)

    return routes


async def _problem(request: Request, error: Exception) -> JSONResponse:
    problem = problem_of(error)
    note(problem, error)
    return JSONResponse(problem.body, problem.status, dict(problem.headers))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return await _problem(request, refused_fields(error.errors()))


async def _no_route(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400 and request.method == "POST":  # bytes that are no UTF-8, or nested too deep
        return await _problem(request, Problem(400, "the body is no JSON; send one JSON object", None, "invalid_json"))
    said = {404: "there is no such route", 405: f"{request.method} is no method of this route"}
    message = f"{request.url.path[:200]}: {said.get(error.status_code, error.detail)}; see /openapi.json"
    problem = Problem(error.status_code, message, None, {404: "not_found"}.get(error.status_code))
    note(problem)
    headers = dict(error.headers or {})
    if error.status_code == 405:  # of the methods of a path, the router tells those of its first route
        paths = request.app.openapi()["paths"].items()
        there = [methods for path, methods in paths if compile_path(path)[0].fullmatch(request.url.path)]
        headers["allow"] = ", ".join(sorted({method.upper() for methods in there for method in methods})) or "GET"
    return JSONResponse(problem.body, problem.status, headers)
