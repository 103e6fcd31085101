"""What a server was told while it ran, after its next start."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from platen.core.errors import BundleError
from platen.core.state.embedded import EmbeddedState
from platen.core.state.postgresql import PostgresState
from platen.serve.config import ServeConfig
from platen.serve.hub.admin import restore
from platen.serve.hub.model_hub import ModelHub
from platen.serve.hub.route_spec import RouteSpec
from platen.serve.hub.saved_routes import KeptChanges, KeptChangesError, changes_document
from platen.serve.hub.served_model import ModelInfo, ServedModel
from platen.tokens.tokenizer import Tokenizer
from tests.serve.running import RunningServer, ScriptedEngine, wait_until

INFO = ModelInfo("tiny", 128, 12_345, "base", "f" * 16, 1_700_000_000)
Start = Callable[[], httpx.Client]


class Models:
    """Models by reference, whose every answer is the reference; one that is `gone` can't be loaded."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.gone: set[str] = set()
        self.broken: set[str] = set()

    def load(self, reference: str, name: str) -> ServedModel:
        if reference in self.gone:
            raise BundleError(f"there is no model folder {reference}")
        engine = ScriptedEngine([reference])
        if reference in self.broken:
            engine.break_after = 0
        info = replace(INFO, name=name, version=reference)
        return ServedModel(engine, self._tokenizer, info, reference)


@pytest.fixture
def models(tiny_tokenizer: Tokenizer) -> Models:
    return Models(tiny_tokenizer)


@pytest.fixture
def start(models: Models, tmp_path: Path) -> Iterator[Start]:
    """Stops the server that runs, if one does, and starts one with v1 and the project's file of changes."""
    with ExitStack() as last:

        def started() -> httpx.Client:
            last.close()
            kept = KeptChanges(changes_document(EmbeddedState(tmp_path), "tiny"))
            server = RunningServer(
                [models.load("v1", "tiny")], ServeConfig(drain_seconds=1), models.load, kept=kept
            )
            last.callback(server.stop)
            return last.enter_context(httpx.Client(base_url=server.url, timeout=20))

        yield started


def said(http: httpx.Client, model: str = "tiny", **more: Any) -> str:
    answer = http.post("/v1/completions", json={"model": model, "prompt": "x", **more})
    return str(answer.json()["choices"][0]["text"]) if answer.status_code == 200 else str(answer.status_code)


def put(http: httpx.Client, name: str, **spec: object) -> None:
    http.put(f"/admin/models/{name}", json=spec).raise_for_status()


def test_swapped_added_and_removed_names_are_so_after_a_restart(start: Start) -> None:
    http = start()
    put(http, "tiny", model="v2")
    put(http, "draft", model="v3")
    put(http, "brief", model="v4")
    http.delete("/admin/models/brief").raise_for_status()
    http = start()
    assert [said(http, name) for name in ("tiny", "draft", "brief")] == ["v2", "v3", "404"]
    http.delete("/admin/models/draft").raise_for_status()
    assert said(start(), "draft") == "404"


def test_a_split_and_a_shadow_are_kept(start: Start) -> None:
    http = start()
    variants = [{"label": "a", "model": "v1", "weight": 3.0}, {"label": "b", "model": "v2", "weight": 1.0}]
    put(http, "tiny", variants=variants, shadow="v3")
    before = http.get("/admin/models").json()
    users = [said(http, user=f"user {number}") for number in range(20)]
    http = start()
    assert http.get("/admin/models").json()[0]["shadow"]["model"] == "v3"
    assert [v["weight"] for v in http.get("/admin/models").json()[0]["variants"]] == [3.0, 1.0]
    assert [v["model"] for v in before[0]["variants"]] == ["v1", "v2"]
    assert [said(http, user=f"user {number}") for number in range(20)] == users
    assert set(users) == {"v1", "v2"}


def test_a_canary_that_was_taken_back_does_not_come_again(start: Start, models: Models) -> None:
    models.broken = {"v2"}
    http = start()
    put(http, "tiny", model="v1", canary={"model": "v2", "share": 0.9, "min_requests": 1})

    def taken_back() -> bool:
        assert said(http) == "v1"
        return http.get("/admin/models").json()[0]["rolled_back"] is not None

    wait_until(taken_back)
    [variant] = start().get("/admin/models").json()[0]["variants"]
    assert variant["model"] == "v1"


def test_without_a_model_that_is_gone_the_server_goes_on(
    start: Start, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    http = start()
    put(http, "tiny", model="v2")
    put(http, "draft", model="v3")
    models.gone = {"v2"}
    http = start()
    assert [said(http), said(http, "draft")] == ["v1", "v3"]
    [told] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "'tiny'" in told
    assert "there is no model folder v2" in told
    models.gone = set()
    assert said(start()) == "v2"  # it was away, not forgotten


def test_a_name_that_is_an_upstreams_now_stays_the_upstreams(models: Models) -> None:
    hub, kept = ModelHub([models.load("v1", "tiny")]), KeptChanges()
    kept.set("big", RouteSpec(model="v2"))
    assert asyncio.run(restore(hub, kept, models.load, not_ours=["big"])) == []
    assert [route.name for route in hub.routes()] == ["tiny"]


def test_folders_are_found_from_anywhere_and_only_the_owner_reads_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path)
    document = changes_document(EmbeddedState(tmp_path), "org/tiny")
    kept = KeptChanges(document)
    kept.set("tiny", RouteSpec(model="bundle", shadow="tiny+bundle", reload=True))
    kept.set("far", RouteSpec(model="org/model"))
    [file] = (tmp_path / ".platen").glob("*.json")
    assert file.name == "serving-org%2Ftiny.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    there = tmp_path / "bundle"
    assert KeptChanges(document).changes == {
        "tiny": RouteSpec(model=str(there), shadow=f"tiny+{there}"),
        "far": RouteSpec(model="org/model"),
    }


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 2, "routes": {}}', '{"format": 1, "routes": {"a": {}}}']
)
def test_a_damaged_file_is_one_clear_error(content: str, tmp_path: Path) -> None:
    (tmp_path / ".platen").mkdir()
    (tmp_path / ".platen" / "serving-tiny.json").write_text(content)
    with pytest.raises(KeptChangesError, match=r"serving-tiny.json can't be read") as error:
        KeptChanges(changes_document(EmbeddedState(tmp_path), "tiny"))
    assert "--fresh" in str(error.value.hint)


def test_servers_of_one_state_learn_what_the_others_are_told(
    models: Models, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platen.serve.hub.admin.FOLLOW_SECONDS", 0.05)

    def kept() -> KeptChanges:
        document = changes_document(PostgresState(postgres, f"r-{tmp_path.name}"), "tiny")
        return KeptChanges(document, shared=True)

    with ExitStack() as last:
        clients = []
        for _ in range(2):
            server = RunningServer(
                [models.load("v1", "tiny")], ServeConfig(drain_seconds=1), models.load, kept=kept()
            )
            last.callback(server.stop)
            clients.append(last.enter_context(httpx.Client(base_url=server.url, timeout=20)))
        here, there = clients
        put(here, "tiny", model="v2")
        wait_until(lambda: said(there) == "v2")
        put(there, "draft", model="v3")
        wait_until(lambda: said(here, "draft") == "v3")
        here.delete("/admin/models/draft").raise_for_status()
        wait_until(lambda: said(there, "draft") == "404")
        assert said(here) == said(there) == "v2"
    assert kept().changes == {"tiny": RouteSpec(model="v2"), "draft": None}


def test_changes_of_two_servers_are_both_kept(postgres: str, tmp_path: Path) -> None:
    document = changes_document(PostgresState(postgres, f"r-{tmp_path.name}"), "tiny")
    one, other = KeptChanges(document, shared=True), KeptChanges(document, shared=True)
    one.set("a", RouteSpec(model="v1"))
    other.set("b", RouteSpec(model="v2"))
    assert asyncio.run(one.learn()) == {"b": RouteSpec(model="v2")}
    assert asyncio.run(one.learn()) == {}
    assert asyncio.run(other.learn()) == {"a": RouteSpec(model="v1")}
    assert one.changes == other.changes
