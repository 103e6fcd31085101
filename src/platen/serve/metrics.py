"""What the server has done and is doing, for Prometheus: one registry an application, names as vLLM has them.

Routes and layers call the plain functions of `Metrics` when a request ends; `MeteredRequests` counts every
HTTP request; `GET /metrics` gives all of it. Labels take few values, never a name that a client made up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Generic, TypeVar

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from platen.engines.protocol import EngineStats, Timings, Usage

StatsOfModels = Callable[[], Mapping[tuple[str, str], EngineStats]]
"""The present state of each model's engine, by the model's name and version."""

M = TypeVar("M", Counter, Histogram)

OTHER = "other"
MOST_VALUES = 200
"""Values that a label may take; later ones are counted under `other`."""

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5)
LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
KV_UNITS = ("blocks", "slots", "rows")
"""What a runner's cache is counted in: OpenVINO in blocks, llama.cpp and PyTorch in whole sequences."""


class Metrics:
    """The counters and histograms of one application, in a registry of their own."""

    def __init__(self, *, process: bool = True) -> None:
        """`process` adds memory, processor time and open files of this process."""
        self.registry = CollectorRegistry()
        if process:
            ProcessCollector(registry=self.registry)
        self._models = _Bounded()
        self._reasons = _Bounded()
        self._engines: StatsOfModels = dict
        self.registry.register(_OfEngines(self))

        def counter(name: str, text: str, *labels: str) -> _Family[Counter]:
            return _Family(Counter(f"platen_{name}", text, labels, registry=self.registry))

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> _Family[Histogram]:
            return _Family(Histogram(f"platen_{name}", text, labels, registry=self.registry, buckets=buckets))

        self._requests = counter("requests", "HTTP requests answered.", "route", "model", "status")
        self._request_seconds = histogram(
            "request_duration_seconds", "HTTP requests until the last byte.", "route", buckets=LONG
        )
        self._refused = counter("requests_refused", "Requests answered 429 or 503.", "status", "reason")
        self._blocked = counter(
            "guard_findings", "What the guards found.", "guard", "rule", "direction", "action"
        )
        self._ended = counter("request_success", "Sequences that ended, and how.", "model", "finished_reason")
        self._cancelled = counter("requests_cancelled", "Sequences cancelled before their end.", "model")
        self._prompt = counter("prompt_tokens", "Prompt tokens.", "model")
        self._cached = counter("prompt_tokens_cached", "Prompt tokens found in the cache.", "model")
        self._generated = counter("generation_tokens", "Tokens generated.", "model")
        self._to_first = histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", "model", buckets=LONG
        )
        self._each = histogram(
            "time_per_output_token_seconds", "Mean time of a token after the first.", "model", buckets=SHORT
        )
        self._end_to_end = histogram(
            "e2e_request_latency_seconds", "From arrival to the last token.", "model", buckets=LONG
        )
        self._queued = histogram(
            "request_queue_time_seconds", "From arrival to the start of prefill.", "model", buckets=LONG
        )
        self._prompt_sizes = histogram(
            "request_prompt_tokens", "Prompt tokens of a request.", "model", buckets=TOKENS
        )
        self._generated_sizes = histogram(
            "request_generation_tokens", "Tokens generated for a request.", "model", buckets=TOKENS
        )

    def watch(self, engines: StatsOfModels) -> None:
        """Report what `engines` gives (running, waiting, cache) at each scrape."""
        self._engines = engines

    def stats(self) -> Mapping[tuple[str, str], EngineStats]:
        """The present state of each model's engine."""
        return self._engines()

    def answered(self, route: str, model: str, status: int, seconds: float) -> None:
        """An HTTP request is over; `model` is empty where none was found."""
        self._requests.labels(route, self._models.value(model), str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def refused(self, status: int, reason: str) -> None:
        """A request was answered 429 or 503; `reason` is the error object's code."""
        self._refused.labels(str(status), self._reasons.value(reason)).inc()

    def ended(self, model: str, reason: str, usage: Usage | None, timings: Timings | None) -> None:
        """One sequence has ended; `reason` is a finish reason, or `error`, as vLLM calls it, for one that
        failed.

        Times are in seconds.
        """
        model = self._models.value(model)
        self._ended.labels(model, reason).inc()
        if usage is not None:
            self._count_tokens(model, usage)
        if timings is None:
            return
        to_first = timings.queued + timings.prefill
        self._queued.labels(model).observe(timings.queued)
        self._to_first.labels(model).observe(to_first)
        self._end_to_end.labels(model).observe(to_first + timings.decode)
        if usage is not None and usage.completion_tokens > 1:
            self._each.labels(model).observe(timings.decode / (usage.completion_tokens - 1))

    def cancelled(self, model: str) -> None:
        """A sequence was cancelled before its end: the client has gone."""
        self._cancelled.labels(self._models.value(model)).inc()

    def found(self, guard: str, rule: str, direction: str, action: str) -> None:
        """A guard has found something. All four come from the guards' own lists."""
        self._blocked.labels(guard, rule, direction, action).inc()

    def _count_tokens(self, model: str, usage: Usage) -> None:
        self._prompt.labels(model).inc(usage.prompt_tokens)
        self._cached.labels(model).inc(usage.cached_tokens)
        self._generated.labels(model).inc(usage.completion_tokens)
        self._prompt_sizes.labels(model).observe(usage.prompt_tokens)
        self._generated_sizes.labels(model).observe(usage.completion_tokens)


class _Family(Generic[M]):
    """A metric's children by the values of their labels: looking one up there costs ten times as much."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def labels(self, *values: str) -> M:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


class _Bounded:
    """A label's values: the first `MOST_VALUES` that come, then `other`."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def value(self, value: str) -> str:
        if value in self._seen:
            return value
        if len(self._seen) >= MOST_VALUES:
            return OTHER
        self._seen.add(value)
        return value


class _OfEngines:
    """What the engines say of themselves, asked at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        return self._families()

    def collect(self) -> Iterable[Metric]:
        running, waiting, held, whole, *counters = families = self._families()
        for labels, stats in self._metrics.stats().items():
            running.add_metric(labels, stats.running)
            waiting.add_metric(labels, stats.waiting)
            for unit in KV_UNITS:
                for key, gauge in ((f"{unit}_held", held), (unit, whole)):
                    if key in stats.extra:
                        gauge.add_metric([*labels, unit], stats.extra[key])
            for key, counter in zip(("draft_tokens", "draft_tokens_accepted"), counters, strict=True):
                if key in stats.extra:
                    counter.add_metric(labels, stats.extra[key])
        return families

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily | CounterMetricFamily, ...]:
        def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"platen_{name}", text, labels=("model", "version", *labels))

        def counter(name: str, text: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"platen_{name}", text, labels=("model", "version"))

        return (
            gauge("num_requests_running", "Sequences in prefill or decode."),
            gauge("num_requests_waiting", "Sequences in the queue."),
            gauge("kv_blocks_in_use", "Units of the key/value cache that are held.", "unit"),
            gauge("kv_blocks", "Units of the key/value cache in all.", "unit"),
            counter("spec_decode_num_draft_tokens", "Draft tokens."),
            counter("spec_decode_num_accepted_tokens", "Of these, accepted."),
        )


class MeteredRequests:
    """An ASGI layer that counts every HTTP request by route, model and status, and what was refused.

    `paths` are the application's route templates. The model is what a route or layer that has found it
    leaves in `scope["state"]["model"]`.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: Iterable[str]) -> None:
        self._app, self._metrics = app, metrics
        self._plain: set[str] = set()
        self._templates = []
        for path in paths:
            if "{" in path:
                self._templates.append((compile_path(path)[0], path))
            else:
                self._plain.add(path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        state = scope.setdefault("state", {})
        status = 0
        told = False

        async def watched(message: Message) -> None:
            nonlocal status, told
            if message["type"] == "http.response.start":
                status = message["status"]
            elif status in (429, 503) and not told and message.get("body"):
                told = True
                self._metrics.refused(status, _code(message["body"]))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = status or 500
            raise
        finally:
            # Neither an answer nor an error: the client had gone before there was one.
            seconds = perf_counter() - began
            self._metrics.answered(self.route(scope["path"]), state.get("model", ""), status or 499, seconds)

    def route(self, path: str) -> str:
        """The template that a path belongs to, or `other`."""
        if path in self._plain:
            return path
        return next((template for pattern, template in self._templates if pattern.match(path)), OTHER)


def _code(body: bytes) -> str:
    """The code in an error object."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return OTHER


def metrics_router(metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics", include_in_schema=False)
    async def scrape(request: Request) -> Response:
        """All metrics in Prometheus' text format, or OpenMetrics' where the scraper prefers it."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), media_type=content_type)

    return router
