"""`platen serve` as a gateway: alone, and beside a model that a folder holds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from platen.cli import chat as chat_command
from platen.core.errors import ConfigError
from platen.project.file import load_project, load_service
from platen.serve.config import ServeConfig
from platen.serve.server import ServeError, serve_bundle
from tests.engines.remote.fake_upstream import answer, chat, chat_stream, fake_upstream
from tests.pipeline.conftest import PLATEN_YAML, write_project
from tests.serve.running import platen_serve

MESSAGES = [{"role": "user", "content": "How are you?"}]


def serve_section(url: str, **settings: Any) -> str:
    """The section of a project file (JSON is YAML) with the upstream "big"."""
    big = {"name": "big", "base_url": url, "max_retries": 0, **settings}
    return f"serve: {json.dumps({'port': 0, 'upstreams': [big]})}\n"


def models(client: httpx.Client) -> list[str]:
    return [model["id"] for model in client.get("/v1/models").json()["data"]]


def ask(client: httpx.Client, model: str) -> Any:
    body = {"model": model, "messages": MESSAGES, "max_tokens": 2}
    return client.post("/v1/chat/completions", json=body)


def test_a_file_with_upstreams_and_no_more_is_a_gateways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_upstream(chat("Fine"), chat_stream("Fine", ", thanks")) as fake:
        section = serve_section(fake.url, fallbacks=["spare"])
        (tmp_path / "platen.yaml").write_text(f"name: desk\n{section}")
        with platen_serve(cwd=tmp_path) as (client, said):
            assert "models    big" in said
            assert "warning: the upstream big falls back to spare, which this server does not have\n" in said
            assert models(client) == ["big"]
            assert ask(client, "big").json()["choices"][0]["message"]["content"] == "Fine"
            assert f"platen chat --url {client.base_url} -m big".replace("/ ", " ") in said
            monkeypatch.setattr("sys.stdin", io.StringIO("How are you?\n"))
            chat_command.command(url=str(client.base_url), model="big")
            assert "Fine, thanks\n" in capsys.readouterr().out
            assert ask(client, "desk").json()["error"]["code"] == "model_not_found"
            assert client.post("/tokenize", json={"prompt": "x"}).status_code == 404
            assert client.get("/health").json()["status"] == "ok"
            assert client.get("/v2/health/ready").status_code == 200
            assert 'platen_request_success_total{finished_reason="stop",model="big"} 2.0' in (
                client.get("/metrics").text
            )


def test_a_folders_model_is_served_beside_the_projects_upstreams(tmp_path: Path, tiny_bundle: Path) -> None:
    with fake_upstream(answer(500)) as fake:
        section = serve_section(fake.url, fallbacks=["mine"])
        project = write_project(tmp_path / "project", PLATEN_YAML + section)
        with platen_serve(str(tiny_bundle), "--name", "mine", cwd=project, quiet=False) as (client, said):
            assert "warning" not in said
            assert models(client) == ["mine", "big"]
            assert ask(client, "big").json()["model"] == "mine"
    assert len(fake.requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--gateway"]])
def test_a_project_that_has_released_nothing_serves_its_upstreams(
    tmp_path: Path, arguments: list[str]
) -> None:
    with fake_upstream(chat("Fine")) as fake:
        project = write_project(tmp_path / "project", PLATEN_YAML + serve_section(fake.url))
        with platen_serve("-p", str(project), *arguments, cwd=tmp_path) as (client, said):
            assert ("no model has been released yet" in said) is not bool(arguments)
            assert models(client) == ["big"]
            assert ask(client, "big").status_code == 200


def test_with_nothing_at_all_it_does_not_start() -> None:
    with pytest.raises(ServeError, match="nothing to serve"):
        serve_bundle(None, name="x", config=ServeConfig(port=0), on_ready=lambda _: None)


def test_what_a_file_says_of_serving(tmp_path: Path) -> None:
    file = tmp_path / "platen.yaml"
    file.write_text("name: desk\nserve:\n  port: 9000\n")
    alone = load_service(tmp_path, ["serve.host=0.0.0.0"])
    assert (alone.service.serve.port, alone.service.serve.host, alone.trains) == (9000, "0.0.0.0", False)
    file.write_text("name: desk\nstate: postgresql://me@db/x\nserve: {}\n")
    shared = load_service(tmp_path)
    assert (shared.trains, shared.service.state) == (False, "postgresql://me@db/x")
    file.write_text(PLATEN_YAML + "serve:\n  port: 9000\n")
    whole = load_service(file)
    assert (whole.service.name, whole.service.serve.port, whole.trains) == ("tiny", 9000, True)
    for text, problem in (
        ("name: desk\nserve:\n  prot: 9000\n", r"platen\.yaml:3.*prot"),
        ("name: Desk!\nserve: {}\n", r"platen\.yaml:1.*name"),
        ("name: desk\nserve: {}\ndata: {}\n", r"data\.sources: missing"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            load_service(tmp_path)


def test_what_needs_a_whole_project_says_what_a_gateways_file_is_for(tmp_path: Path) -> None:
    (tmp_path / "platen.yaml").write_text("name: desk\nserve: {}\n")
    with pytest.raises(ConfigError, match="only name and serve") as refused:
        load_project(tmp_path)
    assert f"`platen serve -p {tmp_path}` starts it" in (refused.value.hint or "")
    with pytest.raises(ConfigError, match=r"data\.sources"):
        load_project(tmp_path, ["data.sources=[]"])
