"""Measures of a server for Prometheus: counters, gauges and histograms, and their text for `/metrics`.

    gate --Call--> requests, refusals      service --Work--> times, tokens      engine --Load--> gauges, when asked for

Rates are the asker's to take: tokens a second are rate(cm3_tokens_total[1m]). No label grows without bound: a route is
one of the application's paths or "other", a reason one of `REASONS`.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from cm3.serve.keys import LIMITED
from cm3.serve.logs import Call
from cm3.serve.service import Service, Work

REASONS = {401: "key", 413: "body", 429: "full", 500: "failed", 503: "stopping", 504: "time"}
"""Why a request was refused, by status: no valid key, a long body, a full queue, our fault, a server that stops, time
that ran out. "limit" is a limit of the key, and "input" what else a request can have wrong."""

_QUICK = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WHOLE = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics(Collector):
    """The measures of one server, in a registry of their own."""

    def __init__(self, model: str = "", replica: str = "") -> None:
        """Measure a server of `model`; where it is one of several replicas, each series has its name as a label."""
        self._labels = {"replica": replica} if replica else {}
        self.registry = registry = CollectorRegistry()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"cm3_{name}", about, labels, registry=registry)

        def seconds(name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"cm3_{name}_seconds", about, labels, buckets=buckets, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"cm3_{name}", about, labels, registry=registry)

        gauge("model_info", "Always 1", "model").labels(model).set(1)
        self._requests = counter("requests", "Requests that ended", "route", "status")
        self._in_flight = gauge("requests_in_flight", "Requests that are being answered")
        self._seconds = seconds("request", "From a request's first byte to its answer's last", _WHOLE, "route")
        self._refused = counter("refused", "Requests that were refused", "reason")
        self._cancelled = counter("cancelled", "Works that were left before their end")
        self._queue = seconds("queue", "From a work's arrival to its first step in the engine", _QUICK)
        self._first_token = seconds("first_token", "From a work's arrival to its first token", _QUICK)
        self._first_pixels = seconds("first_pixels", "From a work's arrival to a picture's first finished rows", _WHOLE)
        self._tokens = counter("tokens", "Tokens read from prompts (in) and written (out)", "direction", "modality")
        self._cached = counter("cached_tokens", "Tokens of prompts that were read before, and not again")
        self._waiting = gauge("queue_length", "Prompts that wait for room in the engine")
        self._works = gauge("works", "Works that were let in and have not ended, out of the setting `queue`")
        self._streams = gauge("streams", "Streams that the engine runs side by side: the batch")
        self._blocks = gauge("cache_blocks_used", "Blocks of keys and values that prompts hold")
        self._kept = gauge("cache_blocks_kept", "Blocks that are kept for prompts to come, until one needs their room")
        self._most = gauge("cache_blocks", "Blocks of keys and values that there are")
        # Every series from the start: a rate over a series that appears with its first event misses that event.
        for reason in (*REASONS.values(), "limit", "input"):
            self._refused.labels(reason)
        for direction in ("in", "out"):
            for modality in ("text", "image"):
                self._tokens.labels(direction, modality)

    def watch(self, service: Service) -> None:
        """Note each work of a service when it has ended, and read its engine whenever the measures are asked for."""
        service.observers.append(self.note)
        self._works.set_function(lambda: service.active)
        self._waiting.set_function(lambda: service.loop.load.waiting)
        self._streams.set_function(lambda: service.loop.load.streams)
        self._blocks.set_function(lambda: service.loop.load.blocks)
        self._kept.set_function(lambda: service.loop.load.kept)
        self._most.set_function(lambda: service.loop.load.most_blocks)

    def begin(self) -> None:
        """Count a request that came."""
        self._in_flight.inc()

    def end(self, call: Call, route: str) -> None:
        """Count a request that was begun and ended."""
        self._in_flight.dec()
        self._requests.labels(route, str(call.status)).inc()
        self._seconds.labels(route).observe(call.seconds)
        if (problem := call.problem) is not None:
            reason = REASONS.get(problem.status, "input") if problem.code != LIMITED else "limit"
            self._refused.labels(reason).inc()

    def note(self, work: Work) -> None:
        """Note the times and the tokens of a work that ended."""
        if work.outcome == "cancelled":
            self._cancelled.inc()
        for measure, at in (
            (self._queue, work.begun),
            (self._first_token, work.first_token),
            (self._first_pixels, work.first_rows),
        ):
            if at is not None:
                measure.observe(at - work.arrived)
        for direction in ("in", "out"):
            for modality in ("text", "image"):
                self._tokens.labels(direction, modality).inc(getattr(work.usage, f"{modality}_{direction}"))
        self._cached.inc(work.usage.cached_in)

    def collect(self) -> Iterator[Metric]:
        """Yield all measures but the times at which counters were made, which rates do not need."""
        for family in self.registry.collect():
            kept = (sample for sample in family.samples if not sample.name.endswith("_created"))
            family.samples = [sample._replace(labels={**sample.labels, **self._labels}) for sample in kept]
            yield family

    def routes(self) -> APIRouter:
        """Return the route that Prometheus reads."""
        routes = APIRouter(tags=["operations"])

        @routes.get("/metrics", response_class=Response)
        async def measures() -> Response:
            """Tell all measures in Prometheus' text format."""
            return Response(generate_latest(self), media_type=CONTENT_TYPE_LATEST)

        return routes
