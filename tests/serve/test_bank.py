"""/v1/memory: search with words and pictures, and the bank that may be written to."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from running_server import Running, running

import cm3
from cm3.generate import CM3Leon
from cm3.retrieval.memory import Memory
from cm3.serve.limits import Settings

STAR = "a large yellow star on a sky ground"
CIRCLE = "a small red circle on a grey background"


@pytest.fixture(scope="module")
def pictures(model: CM3Leon) -> list[PIL.Image.Image]:
    return [model.generate(words, temperature=0.0).image for words in (STAR, CIRCLE)]


@pytest.fixture
def bank(tmp_path: Path, model: CM3Leon, pictures: list[PIL.Image.Image]) -> Path:
    """A bank of two documents."""
    documents = [
        cm3.Document.of(words, picture, id=f"scenes/{i}", source="tests", license="MIT")
        for i, (words, picture) in enumerate(zip((STAR, CIRCLE), pictures, strict=True))
    ]
    Memory.build(tmp_path / "bank", documents, model.encoder)
    return tmp_path / "bank"


@pytest.fixture
def writable(model: CM3Leon, bank: Path) -> Iterator[Running]:
    with running(model.with_memory(bank), Settings(memory_writable=True)) as server:
        yield server


def url(picture: PIL.Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def ids(answer: Any) -> list[str]:
    assert answer.status == 200, answer.data
    return [one["id"] for one in answer.json["data"]]


def test_what_the_bank_is(server: Running, model: CM3Leon) -> None:
    told = server.ask("/v1/memory").json
    assert told["object"] == "memory" and told["documents"] == len(model.memory) and told["writable"] is False
    assert told["licenses"] == {"MIT": len(model.memory)}


def test_words_and_pictures_find_documents(writable: Running, pictures: list[PIL.Image.Image]) -> None:
    found = writable.ask("/v1/memory/search?query=a+yellow+star&k=1").json["data"]
    assert found == [
        {"score": found[0]["score"], "id": "scenes/0", "text": STAR, "source": "tests", "license": "MIT", "images": 1}
    ]
    for i, words in enumerate((STAR, CIRCLE)):
        order = [f"scenes/{i}", f"scenes/{1 - i}"]
        assert ids(writable.ask("/v1/memory/search", {"query": words})) == order
        assert ids(writable.ask("/v1/memory/search", {"image": url(pictures[i])})) == order
        assert ids(writable.ask("/v1/memory/search", {"query": words, "image": url(pictures[i])})) == order
    (one,) = writable.ask("/v1/memory/search", {"query": STAR, "k": 1, "pictures": True}).json["data"]
    data = one["images"][0].partition(";base64,")[2]
    assert cm3.Image(data=base64.b64decode(data)).pixels.size == pictures[0].size


def test_a_search_waits_no_longer_than_the_limit(model: CM3Leon) -> None:
    with running(model, Settings(time_limit_s=1.0)) as server:
        free = threading.Event()
        server.service._desk.submit(free.wait)
        try:
            late = server.ask("/v1/memory/search?query=a")
        finally:
            free.set()
        assert (late.status, late.error["code"]) == (504, "timeout")


def test_a_document_by_its_name(writable: Running) -> None:
    told = writable.ask("/v1/memory/documents/scenes/1").json
    assert told["text"] == CIRCLE and told["images"][0].startswith("data:image/png;base64,")
    for name in ("scenes/2", "../bank/manifest.json", "%2e%2e/%2e%2e/etc/passwd", "scenes%00"):
        answer = writable.ask(f"/v1/memory/documents/{name}")
        assert answer.status == 404 and answer.error["code"] == "not_found"


def test_documents_are_added_read_and_deleted(writable: Running, bank: Path, pictures: list[PIL.Image.Image]) -> None:
    """What is added is found at once, drawn on, and kept; what is deleted is not found any more."""
    new = [
        {"id": "mine/a b", "text": "a picture of a blorp", "image": url(pictures[1]), "license": "CC0"},
        {"text": "words alone", "source": "me"},
    ]
    added = writable.ask("/v1/memory/documents", {"documents": new}).json
    assert added["added"] == 2 and added["data"][0]["id"] == "mine/a b" and added["data"][1]["id"]
    assert ids(writable.ask("/v1/memory/search", {"query": "a picture of a blorp", "k": 1})) == ["mine/a b"]
    body = {"messages": [{"role": "user", "content": "a blorp"}], "modalities": ["image"], "retrieve": 1}
    (read,) = writable.ask("/v1/chat/completions", body).json["choices"][0]["cm3"]["retrieved"]
    assert read["license"] in ("CC0", "MIT") and read["id"] in Memory.open(bank)
    assert len(Memory.open(bank)) == 4
    gone = writable.ask("/v1/memory/documents/mine/a%20b", method="DELETE")
    assert gone.json == {"id": "mine/a b", "object": "memory.document", "deleted": True}
    assert writable.ask("/v1/memory/documents/mine/a%20b").status == 404
    assert "mine/a b" not in ids(writable.ask("/v1/memory/search", {"query": "a picture of a blorp"}))
    assert writable.ask("/v1/memory").json == {
        "object": "memory", "documents": 3, "encoder": Memory.open(bank).encoder_name,
        "sources": {"tests": 2, "me": 1}, "licenses": {"MIT": 2, "": 1}, "writable": True,
    }  # fmt: skip


def test_a_bank_may_be_written_to_only_where_it_is_allowed(server: Running, model: CM3Leon, bank: Path) -> None:
    new = {"documents": [{"text": "a"}]}
    with running(model.with_memory(bank)) as reading, running(model, Settings(memory_writable=True)) as own:
        for one, message in ((server, "may only be read here"), (reading, "may only"), (own, "is part of the model")):
            for answer in (
                one.ask("/v1/memory/documents", new),
                one.ask("/v1/memory/documents/scenes/0", method="DELETE"),
            ):
                assert (
                    answer.status == 403 and answer.error["code"] == "read_only" and message in answer.error["message"]
                )
    assert len(Memory.open(bank)) == 2


def test_a_model_without_a_bank(model: CM3Leon) -> None:
    without = model.with_memory(Path())
    without.retriever._memory = None
    with running(without) as server:
        for path in ("", "/search?query=a", "/documents/a"):
            answer = server.ask(f"/v1/memory{path}")
            assert answer.status == 404 and answer.error["code"] == "no_memory"


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("search", {}, "query", "there is nothing to search with"),
        ("search", {"query": " "}, "query", "there is nothing to search with"),
        ("search", {"query": "a", "k": 0}, "k", "greater than or equal to 1"),
        ("search", {"query": "a", "k": 101}, "k", "less than or equal to 100"),
        ("search", {"query": "a", "parrot": 1}, "parrot", "is no field"),
        ("search", {"image": "data:image/png;base64,?"}, "image", "is no base64"),
        ("search", {"image": "/etc/passwd"}, "image", "is no URL of a picture"),
        ("search", {"query": "a\0"}, "query", "NUL"),
        ("documents", {"documents": []}, "documents", "at least 1 item"),
        ("documents", {"documents": [{}]}, "documents[0]", "has neither text nor image"),
        ("documents", {"documents": [{"id": "", "text": "a"}]}, "documents[0].id", "at least 1 character"),
        ("documents", {"documents": [{"text": "a\0"}]}, "documents[0].text", "NUL"),
        ("documents", {"documents": [{"text": "a", "image": "b"}]}, "documents[0].image", "is no URL of a picture"),
        ("documents", {"documents": [{"id": "scenes/0", "text": "a"}]}, "documents[0].id", "is in the bank"),
        ("documents", {"documents": [{"id": "x", "text": "a"}] * 2}, None, "ids that come twice: 'x'"),
        ("documents", {"documents": [{"text": "a", "path": "/"}]}, "documents[0].path", "is no field"),
    ],
)
def test_what_is_refused_names_its_field(
    writable: Running, bank: Path, path: str, body: dict[str, Any], param: str | None, message: str
) -> None:
    answer = writable.ask(f"/v1/memory/{path}", body)
    assert answer.status == 400, answer.data
    assert answer.error["param"] == param and message in answer.error["message"]
    assert len(Memory.open(bank)) == 2, "all or none"


def test_a_search_by_its_address_is_checked_too(server: Running) -> None:
    for query, param in (("", "query"), ("?query=a&k=0", "k"), ("?query=%20", "query"), ("?query=a&kk=1", "kk")):
        answer = server.ask(f"/v1/memory/search{query}")
        assert answer.status == 400 and answer.error["param"] == param
