"""Every command in the README and the pages of docs/ works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engines.remote.fake_upstream import chat_stream, fake_upstream
from tests.pipeline.conftest import PLATEN_YAML, write_project
from tests.serve.running import platen_serve

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LASTING = {"serve", "ui", "chat"}
GATEWAY = ROOT / "docs" / "gateway.md"
"""Its commands need a service elsewhere and one another: they have a test of their own."""


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("platen ")]


@pytest.fixture(scope="module")
def fresh_desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose examples/ are as in the repository, but small and already run."""
    directory = tmp_path_factory.mktemp("desk")
    text = PLATEN_YAML.replace("name: tiny", "name: shakespeare").replace("[d]", '["d"]')
    write_project(directory / "examples" / "shakespeare", text)
    run(directory, "platen run examples/shakespeare")
    return directory


@pytest.fixture
def desk(fresh_desk: Path, tmp_path: Path) -> Path:
    """A reader's own copy: what one page made is not there for the next."""
    return Path(shutil.copytree(fresh_desk, tmp_path / "desk"))


def run(desk: Path, line: str) -> str:
    """What the command says; it has to end well."""
    arguments = shlex.split(line, comments=True)[1:]
    command = [sys.executable, "-m", "platen", *arguments]
    environment = os.environ | {"COLUMNS": "200"}
    if arguments[0] in LASTING or "--serve" in arguments:
        return lasts_until_interrupted(command, desk, environment)
    done = subprocess.run(
        command, cwd=desk, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def lasts_until_interrupted(command: list[str], desk: Path, environment: dict[str, str]) -> str:
    process = subprocess.Popen(
        command,
        cwd=desk,
        env=environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        deadline = time.monotonic() + 120
        while "Ctrl-C" not in said and time.monotonic() < deadline:
            line = process.stdout.readline()
            assert line, f"ended early: {said}"
            said += line
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said + rest
        assert "Traceback" not in said + rest
        return said + rest
    finally:
        process.kill()


@pytest.mark.parametrize("page", [page for page in PAGES if page != GATEWAY], ids=lambda page: page.name)
def test_every_command_on_the_page_works(page: Path, desk: Path) -> None:
    for line in commands(page):
        run(desk, line)


def test_the_gateways_commands_work_before_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = re.findall(r"^```yaml\n(name: .*?)^```", GATEWAY.read_text(), re.MULTILINE | re.DOTALL)
    doctor, create, serve, chat = commands(GATEWAY)
    monkeypatch.setenv("EXAMPLE_API_KEY", "sk-of-the-service")
    (tmp_path / "desk").mkdir()
    with fake_upstream(chat_stream("A friend", " of the house.")) as service:
        file = file.replace("https://api.example.com/v1", service.url).replace("serve:", "serve:\n  port: 0")
        (tmp_path / "desk" / "platen.yaml").write_text(file)
        assert f"{service.url} takes connections" in run(tmp_path, doctor)
        (key,) = re.findall(r"\bplaten_\S+", run(tmp_path, create))
        monkeypatch.setenv("PLATEN_API_KEY", key)
        with platen_serve(*shlex.split(serve)[2:], cwd=tmp_path) as (client, _):
            chat = chat.replace("http://127.0.0.1:8000", str(client.base_url))
            command = [sys.executable, "-m", "platen", *shlex.split(chat)[1:]]
            asked = subprocess.run(
                command, input="Who goes there?\n", capture_output=True, text=True, timeout=60
            )
    assert asked.returncode == 0, asked.stderr
    assert "A friend of the house." in asked.stdout
    assert service.requests[0].headers["authorization"] == "Bearer sk-of-the-service"


def test_the_pages_have_commands_and_their_links_lead_somewhere() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 12
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
