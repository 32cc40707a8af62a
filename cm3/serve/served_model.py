"""The model that is served: its name, what it draws and does, and the names that mean it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from cm3.errors import shown
from cm3.serve.problem import Problem
from cm3.serve.service import Service

ALIASES = ("default", "gpt-", "chatgpt-image-", "dall-e-")
"""Names of models, or how they begin, that clients send by habit: they mean the one that is served."""


def models(service: Service) -> APIRouter:
    """Return the routes that tell of the model."""
    routes = APIRouter(prefix="/v1/models", tags=["models"])

    @routes.get("")
    async def listed() -> dict[str, Any]:
        """List the model that is served."""
        return {"object": "list", "data": [about(service)]}

    @routes.get("/{model:path}")
    async def one(model: str) -> dict[str, Any]:
        """Tell of one model."""
        check_model(service, model)
        return about(service)

    return routes


def about(service: Service) -> dict[str, Any]:
    """Return the official fields of the model, and under `cm3` what it draws and does."""
    model = service.model
    own = {
        "size": [model.image_size, model.image_size],
        "grid": list(model.grid),
        "grammar": model.vocab.grammar,
        "context": model.decoder.config.context,
        "tasks": list(model.tasks),
        "memory": model.retriever.has_memory,
        "knows": None if model.world is None else model.world.says,
    }
    return {"id": service.name, "object": "model", "created": service.began, "owned_by": "cm3", "cm3": own}


def check_model(service: Service, name: str | None) -> None:
    """Raise `Problem` 404 for a model that is not served here. None, and names sent by habit, mean the one that is."""
    if name is not None and name != service.name and not name.startswith(ALIASES):
        served = f"{service.name!r} is served here"
        raise Problem(404, f"model {shown(name)}: {served}; name it, or leave model out", "model", "model_not_found")
