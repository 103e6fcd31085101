"""What `/metrics` says is what was done: scraped, and read by Prometheus' own parser."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from platen.engines.protocol import EngineStats, Timings, Usage
from platen.serve.metrics import MOST_VALUES, MeteredRequests, Metrics
from tests.serve.running import RunningServer, ScriptedEngine, wait_until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(server: RunningServer) -> Samples:
    response = httpx.get(f"{server.url}/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return parsed(response.text)


def exposed(metrics: Metrics) -> Samples:
    from prometheus_client import generate_latest

    return parsed(generate_latest(metrics.registry).decode())


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"platen_{name}", frozenset(labels.items())), 0.0)


@pytest.fixture
def fresh() -> Metrics:
    return Metrics(process=False)


def test_figures_match_the_traffic(server: RunningServer, client: openai.OpenAI) -> None:
    before = scrape(server)
    prompt_tokens = 0
    for prompt in ("To be, or not to be", "Über allen Gipfeln ist Ruh"):
        used = client.completions.create(
            model="tiny", prompt=prompt, max_tokens=6, seed=1, extra_body={"ignore_eos": True}
        ).usage
        assert used is not None
        prompt_tokens += used.prompt_tokens
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="made-up-by-a-client", prompt="x")
    httpx.get(f"{server.url}/no/such/page")
    httpx.get(f"{server.url}/v1/models/tiny")
    after = scrape(server)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert more("requests_total", route="/v1/completions", model="tiny", status="200") == 2
    assert more("requests_total", route="/v1/completions", model="", status="404") == 1
    assert more("requests_total", route="/v1/models/{model:path}", model="", status="200") == 1
    assert more("requests_total", route="other", model="", status="404") == 1
    assert more("request_success_total", model="tiny", finished_reason="length") == 2
    assert more("prompt_tokens_total", model="tiny") == prompt_tokens
    assert more("generation_tokens_total", model="tiny") == 12
    for name in ("time_to_first_token", "time_per_output_token", "e2e_request_latency", "request_queue_time"):
        assert more(f"{name}_seconds_count", model="tiny") == 2
    assert more("e2e_request_latency_seconds_sum", model="tiny") > 0
    assert value(after, "num_requests_running", model="tiny", version="1") == 0
    assert value(after, "num_requests_waiting", model="tiny", version="1") == 0
    assert value(after, "kv_blocks_in_use", model="tiny", version="1", unit="rows") == 0
    assert value(after, "kv_blocks", model="tiny", version="1", unit="rows") == 4
    assert not any("made-up-by-a-client" in text for _, labels in after for _, text in labels)
    assert after[("process_resident_memory_bytes", frozenset())] > 2**20


def test_a_repeated_prompt_counts_as_cache_hits(server: RunningServer, client: openai.OpenAI) -> None:
    prompt = "a prompt of many blocks that is sent again " * 2
    before, cached = scrape(server), 0
    for _ in range(2):
        used = client.completions.create(model="tiny", prompt=prompt, max_tokens=1).usage
        assert used is not None
        assert used.prompt_tokens_details is not None
        cached += used.prompt_tokens_details.cached_tokens or 0
    assert cached > 0
    after = scrape(server)
    counted = [value(samples, "prompt_tokens_cached_total", model="tiny") for samples in (before, after)]
    assert counted[1] - counted[0] == cached


def test_refusals_by_status_and_reason(scripted: ScriptedEngine, scripted_server: RunningServer) -> None:
    ask = {"model": "tiny", "prompt": "x"}
    scripted.full_for = 3
    assert httpx.post(f"{scripted_server.url}/v1/completions", json=ask).status_code == 429
    scripted.full_for, scripted.failed = None, True
    assert httpx.post(f"{scripted_server.url}/v1/completions", json=ask).status_code == 503
    samples = scrape(scripted_server)
    assert value(samples, "requests_refused_total", status="429", reason="overloaded") == 1
    assert value(samples, "requests_refused_total", status="503", reason="engine_stopped") == 1
    assert value(samples, "requests_total", route="/v1/completions", model="tiny", status="429") == 1


def test_a_client_that_leaves_is_counted(scripted: ScriptedEngine, scripted_server: RunningServer) -> None:
    scripted.seconds_per_piece = 0.05
    body = {"model": "tiny", "prompt": "x", "stream": True, "max_tokens": 40}
    with httpx.stream("POST", f"{scripted_server.url}/v1/completions", json=body) as response:
        next(response.iter_lines())
    wait_until(lambda: value(scrape(scripted_server), "requests_cancelled_total", model="tiny") == 1)
    assert value(scrape(scripted_server), "request_success_total", model="tiny", finished_reason="stop") == 0


def test_an_engine_that_breaks_in_the_middle_is_an_error(
    scripted: ScriptedEngine, scripted_server: RunningServer
) -> None:
    scripted.break_after = 2
    body = {"model": "tiny", "prompt": "x", "stream": True, "max_tokens": 40}
    assert httpx.post(f"{scripted_server.url}/v1/completions", json=body).status_code == 200
    samples = scrape(scripted_server)
    assert value(samples, "request_success_total", model="tiny", finished_reason="error") == 1
    assert value(samples, "requests_cancelled_total", model="tiny") == 0


def test_openmetrics_for_those_who_ask(scripted_server: RunningServer) -> None:
    response = httpx.get(
        f"{scripted_server.url}/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_times_from_the_engine(fresh: Metrics) -> None:
    # Queued 1 s, read for 2 s, five tokens in 4 s: first after 3 s, the other four 1 s each, 7 s in all.
    fresh.ended("m", "stop", Usage(10, 5, 8), Timings(queued=1, prefill=2, decode=4))
    samples = exposed(fresh)
    sums = {
        "time_to_first_token": 3.0,
        "time_per_output_token": 1.0,
        "e2e_request_latency": 7.0,
        "request_queue_time": 1.0,
    }
    for name, seconds in sums.items():
        assert value(samples, f"{name}_seconds_sum", model="m") == seconds
    assert value(samples, "prompt_tokens_cached_total", model="m") == 8


def test_gauges_are_read_at_the_scrape(fresh: Metrics) -> None:
    now = {("m", "7"): EngineStats(3, 2, 0, extra={"blocks": 100.0, "blocks_held": 40.0})}
    fresh.watch(lambda: now)
    assert value(exposed(fresh), "num_requests_running", model="m", version="7") == 3
    now["m", "7"] = EngineStats(1, 0, 0, extra={"blocks": 100.0, "blocks_held": 7.0})
    samples = exposed(fresh)
    assert value(samples, "num_requests_running", model="m", version="7") == 1
    assert value(samples, "kv_blocks_in_use", model="m", version="7", unit="blocks") == 7


def test_drafts_are_counted_where_there_are_some(fresh: Metrics) -> None:
    figures = {"draft_tokens": 12.0, "draft_tokens_accepted": 9.0}
    now = {("m", "7"): EngineStats(0, 0, 0, extra=figures), ("n", "1"): EngineStats(0, 0, 0)}
    fresh.watch(lambda: now)
    samples = exposed(fresh)
    assert value(samples, "spec_decode_num_draft_tokens_total", model="m", version="7") == 12
    assert value(samples, "spec_decode_num_accepted_tokens_total", model="m", version="7") == 9
    assert not any("spec_decode" in name and ("model", "n") in labels for name, labels in samples)


def test_a_label_takes_boundedly_many_values(fresh: Metrics) -> None:
    for number in range(MOST_VALUES + 50):
        fresh.cancelled(f"model-{number}")
    samples = exposed(fresh)
    assert value(samples, "requests_cancelled_total", model="other") == 50
    assert sum(name == "platen_requests_cancelled_total" for name, _ in samples) == MOST_VALUES + 1


def test_two_applications_do_not_share(fresh: Metrics) -> None:
    fresh.cancelled("m")
    assert value(exposed(Metrics(process=False)), "requests_cancelled_total", model="m") == 0


def test_the_layer_counts_what_fails_and_what_was_never_answered(fresh: Metrics) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fails":
            raise RuntimeError("a fault")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    layer = MeteredRequests(app, metrics=fresh, paths=["/fails", "/silent"])
    with pytest.raises(RuntimeError):
        asyncio.run(layer({"type": "http", "path": "/fails"}, receive, send))
    asyncio.run(layer({"type": "http", "path": "/silent"}, receive, send))
    samples = exposed(fresh)
    assert value(samples, "requests_total", route="/fails", model="", status="500") == 1
    assert value(samples, "requests_total", route="/silent", model="", status="499") == 1


def test_every_metric_has_its_line_in_the_documentation(fresh: Metrics) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    told = set(re.findall(r"^\| `(platen_\w+)`", page, re.MULTILINE))
    kinds = {"counter": "_total"}
    given = {family.name + kinds.get(family.type, "") for family in fresh.registry.collect()}
    assert told == given
