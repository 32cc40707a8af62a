"""The application around the routes: health, the model, ids, limits, and errors in the interface's own form."""

from __future__ import annotations

import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest
from running_server import Running, running

from cm3.engine.request import Dropped
from cm3.errors import CheckpointError, ConfigError, DataError, RequestError
from cm3.generate import CM3Leon
from cm3.serve.limits import Settings
from cm3.serve.problem import problem_of, refused_fields
from cm3.serve.run import listening


def test_health_and_readiness(server: Running) -> None:
    assert server.ask("/health").json == {"status": "ok"}
    assert server.ask("/ready").json == {"status": "ready"}
    for path in ("/health", "/ready"):
        told = server.ask(path, method="HEAD")
        assert (told.status, told.data) == (200, b"")


def test_the_model_says_what_it_draws(server: Running, model: CM3Leon) -> None:
    listed = server.ask("/v1/models").json
    (one,) = listed["data"]
    assert listed["object"] == "list" and one["id"] == "scenes" and one["object"] == "model"
    assert one["cm3"]["size"] == [model.image_size] * 2 and one["cm3"]["tasks"] == list(model.tasks)
    assert server.ask("/v1/models/scenes").json == one
    assert server.ask("/v1/models/gpt-image-2").json == one, "a name by habit is an alias"


def test_another_model_is_not_found(server: Running) -> None:
    answer = server.ask("/v1/models/parrot")
    assert answer.status == 404 and answer.error["code"] == "model_not_found"
    assert answer.error["message"] == "model 'parrot': 'scenes' is served here; name it, or leave model out"


@pytest.mark.parametrize(
    ("path", "method", "status", "said"),
    [
        ("/v2/pictures", "GET", 404, "/v2/pictures: there is no such route; see /openapi.json"),
        ("/health/", "GET", 404, "/health/: there is no such route; see /openapi.json"),
        ("/v1/models", "DELETE", 405, "/v1/models: DELETE is no method of this route; see /openapi.json"),
    ],
)
def test_a_wrong_route_is_told(server: Running, path: str, method: str, status: int, said: str) -> None:
    answer = server.ask(path, method=method)
    assert (answer.status, answer.error["message"]) == (status, said)
    assert answer.error["type"] == "invalid_request_error"


def test_a_wrong_method_is_told_with_the_right_ones(server: Running) -> None:
    assert server.ask("/v1/models", method="DELETE").headers["allow"] == "GET"
    paths = server.ask("/openapi.json").json["paths"]
    for path, there in paths.items():
        for method in {"GET", "POST", "DELETE", "PUT"} - {name.upper() for name in there}:
            answer = server.ask(path.format(model="scenes", id="0"), method=method)
            assert answer.status == 405 and set(answer.headers["allow"].split(", ")) == {m.upper() for m in there}


def test_every_route_tells_of_its_errors(server: Running) -> None:
    described = server.ask("/openapi.json").json
    answers = [one["responses"] for methods in described["paths"].values() for one in methods.values()]
    assert answers and all({"4XX", "5XX"} < set(one) and "422" not in one for one in answers)
    told = answers[0]["4XX"]["content"]["application/json"]["schema"]
    for error in (server.ask("/nowhere").json, server.ask("/v1/models/parrot").json):
        assert set(told["properties"]["error"]["required"]) == set(error["error"])
        assert error["error"]["type"] in told["properties"]["error"]["properties"]["type"]["enum"]


def test_a_request_keeps_a_harmless_id_of_its_own(server: Running) -> None:
    assert server.ask("/health", headers={"x-request-id": "a.b-7"}).headers["x-request-id"] == "a.b-7"
    made = [server.ask("/health", headers={"x-request-id": bad}).headers["x-request-id"] for bad in ("a b", "x" * 129)]
    assert len(set(made)) == 2 and all(len(id) == 32 for id in made)


def test_a_body_over_the_limit_is_refused_before_it_is_all_read(model: CM3Leon) -> None:
    with running(model, Settings(body_mb=0.01)) as server:
        place = urlsplit(server.url)
        with socket.create_connection((place.hostname, place.port), timeout=30) as client:
            client.sendall(b"POST /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 20_000)
            answer = client.recv(65536)
    assert b"413" in answer.split(b"\r\n")[0] or b"405" in answer.split(b"\r\n")[0]


def test_a_port_in_use_is_told() -> None:
    with listening("127.0.0.1", 0) as one:
        one.listen()
        port = one.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: cannot listen there .*; take another port, or 0"):
            listening("127.0.0.1", port)
    for port in (-1, 65536):
        with pytest.raises(ConfigError, match=f"^port {port}: ports are 0 to 65535; 0 takes a free one$"):
            listening("127.0.0.1", port)


@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (ConfigError("sampling.top_p=2: must be above 0 and at most 1"), 400, "top_p"),
        (RequestError("retrieve=9: must be 0 to 3"), 400, "retrieve"),
        (RequestError("prompt: is empty; say what to draw"), 400, "prompt"),
        (RequestError("request: streams[0] needs 900 tokens of context"), 400, None),
        (DataError("image: not a readable picture"), 400, None),
    ],
)
def test_what_the_input_caused_is_told_in_words(error: Exception, status: int, param: str | None) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.param, problem.message) == (status, param, str(error))
    assert problem.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "error", [CheckpointError("bundle '/secret/place': altered"), KeyError("secret"), Dropped("secret", (0,))]
)
def test_what_the_server_caused_says_nothing_of_the_inside(error: Exception) -> None:
    problem = problem_of(error)
    assert problem.status == 500 and "secret" not in problem.message and "x-request-id" in problem.message
    assert problem.body["error"]["type"] == "server_error" and problem.headers["x-should-retry"] == "false"


def test_fields_are_named_by_their_path() -> None:
    def told(kind: str, loc: tuple[Any, ...], msg: str = "", value: Any = 1) -> tuple[str | None, str]:
        problem = refused_fields([{"type": kind, "loc": loc, "msg": msg, "input": value}])
        return problem.param, problem.message

    assert told("extra_forbidden", ("body", "colour")) == (
        "colour",
        "colour: is no field of this request; leave it out",
    )
    assert told("missing", ("body", "prompt")) == ("prompt", "prompt: is missing; this request needs it")
    assert told("int_type", ("body", "images", 1, "n"), "Input should be an integer", "x") == (
        "images[1].n",
        "images[1].n='x': input should be an integer",
    )
    guess = {"name": "guidance_scale", "hint": " Did you mean 'guidance'?"}
    problem = refused_fields([{"type": "unknown", "loc": ("body",), "msg": "", "ctx": guess}])
    assert (problem.param, problem.code) == ("guidance_scale", "unknown_parameter")
    assert problem.message == "guidance_scale: is no field of this request. Did you mean 'guidance'?"
    assert told("json_invalid", ("body", 3), "JSON decode error")[1].startswith("the body is no JSON")


def test_many_threads_ask_at_once(server: Running) -> None:
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(server.ask("/v1/models").status)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 8


def test_the_description_has_streams_beside_whole_answers(server: Running) -> None:
    paths = server.ask("/openapi.json").json["paths"]
    for path in ("/v1/images/generations", "/v1/images/edits", "/v1/chat/completions", "/v1/responses"):
        assert set(paths[path]["post"]["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}, (
            path
        )


def test_a_body_of_another_type_is_told(server: Running) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = server.ask("/v1/images/generations", b'{"prompt": "a"}', headers={"content-type": kind})
        assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
        assert answer.error["message"].endswith("send the header 'Content-Type: application/json'")


@pytest.mark.parametrize("name", ["x" * 100_000, "a\nb"])
def test_a_name_that_a_client_made_up_is_told_short_and_in_one_line(server: Running, name: str) -> None:
    for body in ({"prompt": "a", name: 1}, {"prompt": "a", "model": name}):
        error = server.ask("/v1/images/generations", body).error
        assert len(error["message"]) + len(error["param"]) < 400 and "\n" not in error["message"] + error["param"]


@pytest.mark.parametrize(
    ("path", "body", "field", "said"),
    [
        ("/v1/images/generations", {"prompt": "a"} | {f"x{i}": 1 for i in range(999)}, None, "1000 fields, most of"),
        ("/v1/images/generations", {"prompt": "a", "boxes": [1, 2]}, "boxes[0]", "a box is [name, [x1, y1, x2, y2]]"),
        ("/v1/images/generations", {"prompt": "a", "boxes": [["a", [0, 0, 1, 1]]] * 101}, "boxes", "at most 100"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 1001}, "messages", "at most 1000"),
        ("/v1/chat/completions", {"messages": [1, 2]}, "messages[0]", "valid dictionary"),
        ("/v1/responses", {"input": [{"role": "user", "content": "a"}] * 1001}, "input", "at most 1000"),
    ],
)
def test_what_is_too_much_is_refused_at_its_first_fault(
    server: Running, path: str, body: Any, field: str | None, said: str
) -> None:
    answer = server.ask(path, body)
    assert answer.status == 400 and answer.error["param"] == field and said in answer.error["message"]
    assert len(answer.error["message"]) < 400
