"""Measures of a server, as Prometheus reads them."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cm3.engine.request import Load
from cm3.generate import CM3Leon
from cm3.serve.keys import LIMITED
from cm3.serve.logs import Call
from cm3.serve.problem import Problem
from cm3.serve.prometheus import Metrics
from cm3.serve.service import Service, Usage, Work


def series(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All that the text says, read by Prometheus' own reader."""
    families = text_string_to_metric_families(generate_latest(metrics).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return series(metrics)[name, tuple(sorted(labels.items()))]


def a_call(status: int, problem: Problem | None = None, seconds: float = 0.0) -> Call:
    call = Call("id", "GET", "/", status=status, problem=problem)
    call.began -= seconds
    return call


def test_requests_are_counted_by_route_and_status() -> None:
    metrics = Metrics("scenes")
    metrics.begin()
    metrics.begin()
    assert value(metrics, "cm3_requests_in_flight") == 2
    metrics.end(a_call(200), "/v1/models")
    metrics.end(a_call(404, seconds=3600), "other")
    assert value(metrics, "cm3_requests_in_flight") == 0
    assert value(metrics, "cm3_requests_total", route="/v1/models", status="200") == 1
    assert value(metrics, "cm3_requests_total", route="other", status="404") == 1
    assert value(metrics, "cm3_request_seconds_count", route="/v1/models") == 1
    assert value(metrics, "cm3_request_seconds_bucket", route="other", le="600.0") == 0
    assert value(metrics, "cm3_request_seconds_bucket", route="other", le="+Inf") == 1


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (Problem(401, "no", code="invalid_api_key"), "key"),
        (Problem(429, "later", code=LIMITED), "limit"),
        (Problem(400, "too many", code=LIMITED), "limit"),
        (Problem(429, "later", code="full"), "full"),
        (Problem(413, "long"), "body"),
        (Problem(404, "where"), "input"),
        (Problem(400, "wrong"), "input"),
        (Problem(500, "oh"), "failed"),
        (Problem(503, "bye"), "stopping"),
        (Problem(504, "late"), "time"),
    ],
)
def test_refusals_are_counted_by_reason_and_in_a_stream_too(problem: Problem, reason: str) -> None:
    metrics = Metrics()
    for status in (problem.status, 200):
        metrics.begin()
        metrics.end(a_call(status, problem), "/v1/models")
    found = {labels[0][1]: n for (name, labels), n in series(metrics).items() if name == "cm3_refused_total"}
    assert found[reason] == 2 and sum(found.values()) == 2 and len(found) == 8


def test_a_work_fills_counters_and_histograms() -> None:
    metrics = Metrics()
    usage = Usage(text_in=1, image_in=2, text_out=3, image_out=4, cached_in=1)
    metrics.note(Work(100.0, 100.5, 103.0, 110.0, 120.0, 130.0, "done", usage))
    metrics.note(Work(100.0, ended=101.0, outcome="cancelled", usage=usage))
    found = {labels: n for (name, labels), n in series(metrics).items() if name == "cm3_tokens_total"}
    assert {"-".join(v for _, v in labels): n for labels, n in found.items()} == {
        "in-text": 2, "in-image": 4, "out-text": 6, "out-image": 8,
    }  # fmt: skip
    for name, seconds in (("queue", 3), ("first_token", 10), ("first_pixels", 20)):
        assert value(metrics, f"cm3_{name}_seconds_sum") == seconds
        assert value(metrics, f"cm3_{name}_seconds_count") == 1, "what has not happened is not measured"
    assert value(metrics, "cm3_cancelled_total") == 1 and value(metrics, "cm3_cached_tokens_total") == 2


def test_the_engine_is_read_when_it_is_asked_for(model: CM3Leon) -> None:
    service, metrics = Service(model), Metrics()
    metrics.watch(service)
    names = ("queue_length", "works", "streams", "cache_blocks_used", "cache_blocks", "cache_blocks_kept")
    service.loop.load, service.active = Load(running=2, waiting=3, streams=4, blocks=5, most_blocks=9, kept=2), 6
    assert [value(metrics, f"cm3_{name}") for name in names] == [3, 6, 4, 5, 9, 2]
    service.loop.load, service.active = Load(0, 0, 0, 0, 9), 0
    assert [value(metrics, f"cm3_{name}") for name in names] == [0, 0, 0, 0, 9, 0]


def test_each_series_of_a_replica_has_its_name() -> None:
    metrics = Metrics("scenes", replica="r1")
    metrics.note(Work(0.0, outcome="cancelled"))
    assert value(metrics, "cm3_cancelled_total", replica="r1") == 1
    assert all(dict(labels)["replica"] == "r1" for _, labels in series(metrics))


def test_servers_do_not_share_their_measures() -> None:
    one, other = Metrics("a"), Metrics("b")
    one.note(Work(0.0, outcome="cancelled"))
    assert value(other, "cm3_cancelled_total") == 0 and value(other, "cm3_model_info", model="b") == 1
