"""Splits, canaries, shadows and swaps: who is answered by what, and that no change fails a request."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from platen.cli.main import app
from platen.core.errors import BundleError, PlatenError
from platen.serve.config import ServeConfig
from platen.serve.hub.routing import CANARY, STABLE, CanaryLimits, CanaryWatch, Outcome, Route, Variant
from platen.serve.hub.served_model import ModelInfo, ServedModel
from platen.tokens.tokenizer import Tokenizer
from tests.serve.running import RunningServer, ScriptedEngine, wait_until

INFO = ModelInfo("tiny", 128, 12_345, "base", "f" * 16, 1_700_000_000)


def scripted_model(tokenizer: Tokenizer, version: str) -> ServedModel:
    """A model whose every answer is its own version, in three pieces."""
    engine = ScriptedEngine([version, " ", version])
    return ServedModel(engine, tokenizer, replace(INFO, version=version), version)


class Live:
    """A running server with one scripted model, and models that it can be told to load."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.loaded: dict[str, ScriptedEngine] = {}
        self.prepare: Callable[[ScriptedEngine], None] = lambda engine: None
        self.server = RunningServer([self.load("v1", "tiny")], ServeConfig(drain_seconds=1), load=self.load)
        self.http = httpx.Client(base_url=self.server.url, timeout=20)

    def load(self, reference: str, name: str) -> ServedModel:
        if reference.startswith("bad"):
            raise BundleError("there is no model folder bad", hint="Give a folder")
        model = scripted_model(self.tokenizer, reference)
        if reference == "shared":  # as a loader may that knows what is open
            return replace(model, engine=self.loaded["v1"], info=replace(model.info, name=name))
        engine = model.engine
        assert isinstance(engine, ScriptedEngine)
        if reference != "v1":
            self.prepare(engine)
        self.loaded[reference] = engine
        return replace(model, info=replace(model.info, name=name))

    def put(self, **spec: object) -> httpx.Response:
        return self.http.put("/admin/models/tiny", json=spec)

    def status(self) -> dict[str, object]:
        return dict(self.http.get("/admin/models").json()[0])

    def ask(self, stream: bool = False, **fields: object) -> httpx.Response:
        body = {"model": "tiny", "prompt": "x", "max_tokens": 9, "stream": stream, **fields}
        return self.http.post("/v1/completions", json=body)


@pytest.fixture
def live(tiny_tokenizer: Tokenizer) -> Iterator[Live]:
    live = Live(tiny_tokenizer)
    yield live
    live.http.close()
    live.server.stop()


# -- who is answered by what ----------------------------------------------------------------------------


def route_of(tokenizer: Tokenizer, weights: dict[str, float]) -> Route:
    return Route(
        "tiny", [Variant(label, scripted_model(tokenizer, label), w) for label, w in weights.items()]
    )


USERS = [f"user-{number}" for number in range(4000)]


def test_a_split_keeps_its_weights_and_its_users(tiny_tokenizer: Tokenizer) -> None:
    route = route_of(tiny_tokenizer, {"a": 6, "b": 3, "c": 1})
    chosen = {user: route.choose(user).label for user in USERS}
    assert {user: route.choose(user).label for user in USERS} == chosen
    shares = Counter(chosen.values())
    # Binomial: 4 standard deviations of 4,000 draws are less than 0.032.
    assert {label: pytest.approx(shares[label] / 4000, abs=0.032) for label in "abc"} == {
        "a": 0.6,
        "b": 0.3,
        "c": 0.1,
    }


def test_a_growing_canary_moves_only_users_to_itself(tiny_tokenizer: Tokenizer) -> None:
    small = route_of(tiny_tokenizer, {STABLE: 0.9, CANARY: 0.1})
    large = route_of(tiny_tokenizer, {STABLE: 0.5, CANARY: 0.5})
    for user in USERS:
        if small.choose(user).label == CANARY:
            assert large.choose(user).label == CANARY


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.text(max_size=20))
def test_every_user_gets_one_of_the_variants(weights: list[float], user: str) -> None:
    variants = [Variant(str(i), None, weight) for i, weight in enumerate(weights)]  # type: ignore[arg-type]
    assert Route("tiny", variants).choose(user) in variants
    assert Route("tiny", variants).choose(None) in variants


LIMITS = CanaryLimits(min_requests=10, window=20, max_error_rate=0.1, max_slowdown=1.5)


@pytest.mark.parametrize(
    ("canary", "complaint"),
    [
        ([Outcome(True)] * 9, None),
        ([Outcome(False, 1.0)] * 9 + [Outcome(True)], None),
        ([Outcome(False, 1.0)] * 8 + [Outcome(True)] * 2, "20.0% of its last 10 answers failed"),
        ([Outcome(True)] * 5 + [Outcome(False, 1.0)] * 20, None),
        ([Outcome(False, 1.5)] * 10, None),
        ([Outcome(False, 1.6)] * 10, "a token takes it 1.6e+03 ms, the stable model 1e+03 ms (medians)"),
        ([Outcome(False)] * 10, None),
    ],
)
def test_when_a_canary_must_go(canary: list[Outcome], complaint: str | None) -> None:
    watch = CanaryWatch(LIMITS)
    for _ in range(10):
        watch.add(STABLE, Outcome(False, 1.0))
    for outcome in canary:
        watch.add(CANARY, outcome)
    assert watch.complaint() == complaint


# -- on a running server --------------------------------------------------------------------------------


def test_a_swap_answers_with_the_new_and_lets_the_old_end(live: Live) -> None:
    live.loaded["v1"].seconds_per_piece = 0.1
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(live.ask)
        wait_until(lambda: bool(live.loaded["v1"].running))
        assert live.put(model="v2").status_code == 200
        new = live.ask()
        assert (new.json()["choices"][0]["text"], new.headers["x-platen-version"]) == ("v2 v2", "v2")
        assert (old.result().json()["choices"][0]["text"], old.result().headers["x-platen-version"]) == (
            "v1 v1",
            "v1",
        )
    wait_until(lambda: live.loaded["v1"].closed)
    assert not live.loaded["v2"].closed
    assert live.http.get("/v1/models").json()["data"][0]["version"] == "v2"


def test_what_can_not_be_loaded_changes_nothing(live: Live) -> None:
    refused = live.put(variants=[{"label": "a", "model": "v2"}, {"label": "b", "model": "bad"}])
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "model_not_loaded"
    assert "no model folder bad" in refused.json()["error"]["message"]
    assert live.loaded["v2"].closed
    assert live.put(model="shared", shadow="bad").status_code == 400
    assert not live.loaded["v1"].closed
    assert live.ask().headers["x-platen-version"] == "v1"


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"model": "v2", "variants": [{"label": "a", "model": "v2"}]},
        {"variants": [{"label": "a", "model": "v2"}, {"label": "a", "model": "v3"}]},
        {"variants": [{"label": "canary", "model": "v2"}]},
        {"variants": [{"label": "a", "model": "v2"}], "canary": {"model": "v3"}},
        {"model": "v2", "canary": {"model": "v3", "share": 1.0}},
        {"model": "v2", "made_up": 1},
    ],
)
def test_a_change_that_makes_no_sense_is_refused(live: Live, spec: dict[str, object]) -> None:
    assert live.put(**spec).status_code == 400
    assert live.ask().headers["x-platen-version"] == "v1"


def test_a_split_is_told_and_sticky(live: Live) -> None:
    parts = [{"label": "a", "model": "v1"}, {"label": "b", "model": "v2"}]
    assert live.put(variants=parts).status_code == 200
    seen = {user: live.ask(user=user).headers["x-platen-variant"] for user in USERS[:30]}
    assert set(seen.values()) == {"a", "b"}
    assert {user: live.ask(user=user).headers["x-platen-variant"] for user in USERS[:30]} == seen
    answered = {part["label"]: part["answered"] for part in live.status()["variants"]}  # type: ignore[attr-defined]
    assert answered == {label: 2 * count for label, count in Counter(seen.values()).items()}
    assert not live.loaded["v1"].closed  # kept, not loaded again


def test_another_name_and_its_end(live: Live) -> None:
    assert live.http.put("/admin/models/other", json={"model": "v2"}).status_code == 200
    assert [card["id"] for card in live.http.get("/v1/models").json()["data"]] == ["tiny", "other"]
    answer = live.http.post("/v1/completions", json={"model": "other", "prompt": "x"})
    assert (answer.json()["model"], answer.json()["choices"][0]["text"]) == ("other", "v2 v2")
    assert live.http.delete("/admin/models/other").status_code == 200
    assert live.http.delete("/admin/models/other").status_code == 404
    wait_until(lambda: live.loaded["v2"].closed)
    assert live.http.post("/v1/completions", json={"model": "other", "prompt": "x"}).status_code == 404


def breaking(engine: ScriptedEngine) -> None:
    engine.break_after = 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_canary_is_rolled_back_and_fails_nobody(live: Live, stream: bool) -> None:
    live.prepare = breaking
    canary = {"model": "v2", "share": 0.5, "min_requests": 5}
    assert live.put(model="v1", canary=canary).status_code == 200
    for number in range(60):
        answer = live.ask(stream, user=f"u{number}")
        assert answer.status_code == 200
        assert answer.headers["x-platen-version"] == "v1"
        assert '"error"' not in answer.text
    status = live.status()
    assert status["rolled_back"] == "100.0% of its last 5 answers failed"
    assert [part["label"] for part in status["variants"]] == [STABLE]  # type: ignore[attr-defined]
    wait_until(lambda: live.loaded["v2"].closed)


def test_a_shadow_gets_copies_and_answers_nobody(live: Live) -> None:
    assert live.put(model="v1", shadow="v2").status_code == 200
    for stream in (False, True):
        assert live.ask(stream).headers["x-platen-version"] == "v1"
    wait_until(lambda: len(live.loaded["v2"].requests) == 2 and not live.loaded["v2"].running)
    live.loaded["v2"].break_after = 0
    assert live.ask().status_code == 200
    shadow = live.status()["shadow"]
    assert isinstance(shadow, dict)
    assert shadow["version"] == "v2"
    assert live.put(model="v1").status_code == 200
    wait_until(lambda: live.loaded["v2"].closed)


@pytest.mark.parametrize(("swaps", "rollbacks"), [(8, 2), pytest.param(50, 10, marks=pytest.mark.slow)])
def test_swaps_and_rollbacks_under_load_fail_no_request(live: Live, swaps: int, rollbacks: int) -> None:
    stop = threading.Event()
    wrong: list[str] = []
    answers = Counter[str]()

    def load(number: int) -> None:
        with httpx.Client(base_url=live.server.url, timeout=20) as http:
            while not stop.is_set():
                stream = (number + answers.total()) % 2 == 0
                body = {"model": "tiny", "prompt": "x", "max_tokens": 9, "stream": stream}
                answer = http.post("/v1/completions", json=body)
                version = answer.headers.get("x-platen-version", "?")
                said = "".join(_texts(answer.text)) if stream else answer.json()["choices"][0]["text"]
                if answer.status_code != 200 or said != f"{version} {version}":
                    wrong.append(f"{answer.status_code} {version} {said!r}")
                answers[version] += 1

    def go_on() -> None:
        before = answers.total()
        wait_until(lambda: answers.total() >= before + 8, seconds=20)

    live.loaded["v1"].seconds_per_piece = 0.002
    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(swaps):
            assert live.put(model=f"s{number}").status_code == 200
            go_on()
        for number in range(rollbacks):
            live.prepare = breaking
            canary = {"model": f"c{number}", "share": 0.5, "min_requests": 3}
            assert live.put(model=f"s{swaps - 1}", canary=canary).status_code == 200
            live.prepare = lambda engine: None
            wait_until(lambda: live.status()["rolled_back"] is not None, seconds=20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(answers) >= swaps
    wait_until(lambda: sum(not engine.closed for engine in live.loaded.values()) == 1)


def _texts(events: str) -> Iterator[str]:
    for line in events.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])["choices"][0]["text"]


def test_the_command_line_shows_and_changes_it(live: Live) -> None:
    def platen(*arguments: str) -> str:
        result = CliRunner().invoke(
            app, ["traffic", "--url", live.server.url, *arguments], env={"COLUMNS": "200"}
        )
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    assert "v1" in platen()
    assert "v2" in platen("swap", "tiny", "v2")
    said = platen("canary", "tiny", "v3", "--share", "0.25")
    assert "75%" in said
    assert "25%" in said
    assert "copies" in platen("shadow", "tiny", "v4")
    said = platen("split", "tiny", "a=v2:3", "b=v5")
    assert "75%" in said
    assert "v5" in said
    assert "v5" not in platen("stable", "tiny")
    platen("swap", "other", "v6")
    platen("remove", "other")
    assert live.ask().headers["x-platen-version"] == "v2"
    refused = CliRunner().invoke(app, ["traffic", "--url", live.server.url, "shadow", "nobody", "v2"])
    assert isinstance(refused.exception, PlatenError)
