"""/v1/memory: the memory bank that the model draws on.

    GET     /v1/memory                         how many documents, of which sources and licences, and whether it changes
    GET     /v1/memory/search?query=...&k=5    documents found by words
    POST    /v1/memory/search                  by words, by a picture, or by both: {query, image, k, pictures}
    GET     /v1/memory/documents/{id}          one document, with its pictures
    POST    /v1/memory/documents               adds documents, all or none: {documents: [{id, text, image, ...}]}
    DELETE  /v1/memory/documents/{id}          deletes one

The last two where `Settings.memory_writable` allows it, and never in a bank that is part of the model. An image is a
data URL, here and there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from cm3.document import Document, Image, Part, Text
from cm3.generate import CM3Leon
from cm3.picture import rgb
from cm3.retrieval.embed import embed
from cm3.retrieval.memory import Memory
from cm3.serve.bodies import LONGEST_PROMPT, Body
from cm3.serve.conversation import check_words
from cm3.serve.problem import Problem
from cm3.serve.sent_pictures import data_url, encoded, url_picture
from cm3.serve.service import P, Service, T

MOST_FOUND, MOST_ADDED = 100, 256
"""Most documents of one search, and of one request to add."""
Words = Annotated[str, Field(max_length=LONGEST_PROMPT)]
Number = Annotated[int, Field(ge=1, le=MOST_FOUND)]


class ByWords(Body):
    """A search in a URL, where a number is a string."""

    model_config = ConfigDict(strict=False)

    query: Words
    k: Number = 5


class Search(Body):
    """A search: with words, with a picture, or with both."""

    query: Words | None = Field(None, description="Words to search with.")
    image: str | None = Field(None, description="A picture to search with, as a data URL.")
    k: Number = Field(5, description="How many documents.")
    pictures: bool = Field(False, description="Whether their pictures are sent too.")


class NewDocument(Body):
    """A document: a text, a picture, or both."""

    id: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(None, description="Its name; made if none.")
    text: Words | None = None
    image: str | None = Field(None, description="A picture, as a data URL.")
    source: Annotated[str, Field(max_length=512)] = ""
    license: Annotated[str, Field(max_length=512)] | None = Field(None, description="Shown with what draws on it.")


class NewDocuments(Body):
    """Documents to add."""

    documents: Annotated[list[NewDocument], Field(min_length=1, max_length=MOST_ADDED, fail_fast=True)]


def router(service: Service) -> APIRouter:
    """Return the routes of the memory bank."""
    routes = APIRouter(prefix="/v1/memory", tags=["memory"])
    model = service.model

    async def desk(work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        await service.bank()
        return await service.desk(work, *args, **options)

    @routes.get("")
    async def about() -> dict[str, Any]:
        """Tell of the bank."""
        return await desk(lambda: _about(_bank(model), _writable(model, service)))

    @routes.get("/search")
    async def by_words(asked: Annotated[ByWords, Query()]) -> dict[str, Any]:
        """Find documents by words."""
        return await desk(_found, model, asked.query, None, asked.k, False)

    @routes.post("/search")
    async def by_all(body: Search) -> dict[str, Any]:
        """Find documents by words, by a picture, or by both."""
        picture = None if body.image is None else await url_picture(service, body.image, "image")
        return await desk(_found, model, body.query or "", picture, body.k, body.pictures)

    @routes.get("/documents/{id:path}")
    async def one(id: str) -> dict[str, Any]:
        """Return a document."""
        return await desk(lambda: _shown(_named(_bank(model), id)[id], True))

    @routes.post("/documents")
    async def add(body: NewDocuments) -> dict[str, Any]:
        """Add documents, all or none."""
        await desk(_check_writable, model, service)
        documents = []
        for number, new in enumerate(body.documents):
            field = f"documents[{number}]"
            picture = None if new.image is None else await url_picture(service, new.image, f"{field}.image")
            documents.append(_document(new, picture, field))
        added = await desk(_add, model, documents)
        return {"object": "list", "data": [{"id": document.id} for document in documents], "added": added}

    @routes.delete("/documents/{id:path}")
    async def delete(id: str) -> dict[str, Any]:
        """Delete a document."""
        await desk(_check_writable, model, service)
        await desk(lambda: _named(_bank(model), id).delete([id]))
        return {"id": id, "object": "memory.document", "deleted": True}

    return routes


def _bank(model: CM3Leon) -> Memory:
    """Return the bank. Raises `Problem` 404 where the model has none."""
    if not model.retriever.has_memory:
        raise Problem(404, "this server has no memory bank; start it with --memory DIR", None, "no_memory")
    return model.memory


def _named(bank: Memory, id: str) -> Memory:
    """Return the bank where it has a document of this name. Raises `Problem` 404 where it has not."""
    if id not in bank:
        raise Problem(404, f"id={id!r:.80}: there is no such document; a search tells ids", "id", "not_found")
    return bank


def _writable(model: CM3Leon, service: Service) -> bool:
    own = model.bundle.memory
    return service.settings.memory_writable and (own is None or _bank(model).folder != Path(own))


def _check_writable(model: CM3Leon, service: Service) -> None:
    """Raise `Problem` 403 where the bank may not be changed."""
    _bank(model)
    if not _writable(model, service):
        why = "is part of the model" if service.settings.memory_writable else "may only be read here"
        rule = "start the server with --memory DIR, a bank of your own, and with writing allowed"
        raise Problem(403, f"the memory bank {why}; {rule}", None, "read_only")


def _about(bank: Memory, writable: bool) -> dict[str, Any]:
    info = bank.info()
    told = {name: info[name] for name in ("documents", "encoder", "sources", "licenses")}
    return {"object": "memory", **told, "writable": writable}


def _found(model: CM3Leon, query: str, picture: Image | None, k: int, pictures: bool) -> dict[str, Any]:
    check_words(query, "query")
    parts = _parts(query.strip(), picture)
    if not parts:
        raise Problem(400, "query: there is nothing to search with; give words, image, or both", "query")
    bank = _bank(model)
    (ids,), scores = bank.search(embed(model.encoder, [Document(parts, id="query")]).vectors, k)
    rows = zip(ids, scores[0].tolist(), strict=True)
    return {"object": "list", "data": [{"score": round(score, 4), **_shown(bank[id], pictures)} for id, score in rows]}


def _parts(text: str, picture: Image | None) -> tuple[Part, ...]:
    words: tuple[Part, ...] = (Text(text),) if text else ()
    return words if picture is None else (*words, picture)


def _shown(document: Document, pictures: bool) -> dict[str, Any]:
    """Return a document as JSON has it."""
    told = {"id": document.id, "text": document.text, "source": document.source}
    told |= {"license": str(document.meta.get("license", ""))}
    if not pictures:
        return {**told, "images": len(document.images)}
    urls = [data_url(encoded(rgb(image.pixels)), "png") for image in document.images]
    return {**told, "images": urls}


def _document(new: NewDocument, picture: Image | None, field: str) -> Document:
    """Return a document to add. Raises `Problem` for one without a part, and for a text that is none."""
    text = (new.text or "").strip()
    for name, value in (("id", new.id or ""), ("text", text), ("source", new.source), ("license", new.license or "")):
        check_words(value, f"{field}.{name}")
    if not text and picture is None:
        raise Problem(400, f"{field}: has neither text nor image; give one of them", field)
    meta = {} if new.license is None else {"license": new.license}
    return Document(_parts(text, picture), id=new.id or uuid.uuid4().hex, source=new.source, meta=meta)


def _add(model: CM3Leon, documents: list[Document]) -> int:
    """Add documents; returns how many. Raises `Problem` for an id that is there, `DataError` for one given twice."""
    bank = _bank(model)
    for number, document in enumerate(documents):
        if document.id in bank:
            field = f"documents[{number}].id"
            raise Problem(400, f"{field}={document.id!r:.80}: is in the bank; delete it first", field, "exists")
    return bank.add(documents, model.encoder).added
