"""Logs of a server: one line each, for machines or for a person, and nothing in them that nobody asked for."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable
from typing import Literal

import pytest

from cm3.document import Document, Gap, Text
from cm3.serve.logs import Call, set_up
from cm3.serve.problem import Problem
from cm3.serve.service import Usage, Work

Lines = Callable[[Literal["json", "text"]], io.StringIO]


@pytest.fixture
def to(loggers_put_back: None) -> Lines:
    """Logs that go into a string."""

    def start(form: Literal["json", "text"]) -> io.StringIO:
        stream = io.StringIO()
        set_up(form, stream)
        return stream

    return start


def a_call() -> Call:
    call = Call("req_1", "POST", "/v1/images/generations")
    call.key, call.status, call.whole = "studio", 200, True
    for tokens in (3, 4):
        work = Work(arrived=10.0, begun=10.25, usage=Usage(text_in=tokens, image_out=64))
        work.documents = [Document([Text("a red\ncircle"), Gap("image")])]
        call.works.append(work)
    return call


def test_a_request_is_one_object_a_line(to: Lines) -> None:
    stream = to("json")
    a_call().tell("/v1/images/generations")
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    logging.getLogger("python_multipart.multipart").warning("a body of no such form")
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert first.pop("seconds") >= 0 and first.pop("time") <= second["time"]
    assert first == {
        "level": "info",
        "logger": "cm3.serve",
        "message": "request",
        "request_id": "req_1",
        "method": "POST",
        "route": "/v1/images/generations",
        "status": 200,
        "key": "studio",
        "queue_seconds": 0.5,
        "tokens": {"text_in": 7, "image_out": 128},
    }
    assert (second["message"], second["logger"]) == ("Started server process [7]", "uvicorn.error")
    assert (third["message"], third["logger"]) == ("a body of no such form", "python_multipart.multipart")


@pytest.mark.parametrize("form", ["json", "text"])
def test_prompts_are_logged_only_when_asked_for(to: Lines, form: Literal["json", "text"]) -> None:
    stream = to(form)
    a_call().tell("/v1/images/generations")
    assert "circle" not in stream.getvalue()
    a_call().tell("/v1/images/generations", prompts=True)
    assert stream.getvalue().count("circle <gap>") == 2 and len(stream.getvalue().splitlines()) == 2


def test_what_a_client_sends_cannot_break_a_line(to: Lines) -> None:
    stream = to("text")
    call = Call("req_1", "GET", "/\x1b[2J\nERROR x \u202e" + "y" * 500)
    call.status = 404
    call.tell("other")
    (line,) = stream.getvalue().splitlines()
    assert "route=other path=/\\x1b[2J\\nERROR x \\u202eyy" in line and len(line) < 400


def test_a_failure_has_its_traceback(to: Lines) -> None:
    for form in ("json", "text"):
        stream = to(form)  # type: ignore[arg-type]
        try:
            raise ZeroDivisionError("by nought")
        except ZeroDivisionError:
            logging.getLogger("cm3.serve").exception("request %s failed", "req_1")
        said = stream.getvalue()
        assert "request req_1 failed" in said and "ZeroDivisionError: by nought" in said
        assert (len(said.splitlines()) == 1) == (form == "json")


def test_warnings_of_libraries_are_lines_too(to: Lines) -> None:
    stream = to("json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["level"] == "warning" and "old" in json.loads(line)["message"]


def test_setting_up_again_writes_no_line_twice(to: Lines) -> None:
    first, second = to("text"), to("text")
    a_call().tell("/v1/models")
    assert first.getvalue() == "" and len(second.getvalue().splitlines()) == 1


def test_a_probe_is_told_only_when_it_finds_something(to: Lines) -> None:
    stream = to("json")
    call = a_call()
    for call.status in (200, 503):
        call.tell("/health")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["status"] == 503


def test_a_servers_fault_is_an_error(to: Lines) -> None:
    stream = to("json")
    call = a_call()
    call.status, call.problem, call.whole = 500, Problem(500, "no"), False
    call.tell("/v1/models")
    line = json.loads(stream.getvalue())
    assert (line["level"], line["error"], line["cut_off"]) == ("error", "server_error", True)
