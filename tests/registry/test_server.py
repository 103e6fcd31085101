"""The registry on an MLflow server, asked over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from platen.core.errors import RegistryError
from platen.registry.backend import QUIET
from platen.registry.gate import GateOutcome
from platen.registry.tracking import MlflowTracker
from platen.registry.versions import Registry


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "files")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | QUIET, cwd=tmp_path, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{url}/health", timeout=1).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow  # the server alone takes ten seconds to start
def test_runs_versions_and_aliases_are_the_servers(server: str, tmp_path: Path) -> None:
    here, there = (Registry(tmp_path / name, url=server) for name in ("here", "there"))
    with MlflowTracker(here.backend, experiment="plays", run_name="train", fingerprint="a1") as run:
        run.log({"loss": 2.0}, 1)
    folder = (tmp_path / "bundle").as_uri()
    version = here.register("poet", fingerprint="a1", source=folder, metrics={"loss": 2.0}, tags={"x": "y"})
    assert (version.number, version.run_id, version.tags) == (1, run.run_id, {"x": "y"})
    assert version.source == folder
    with pytest.raises(RegistryError, match="did not pass"):
        here.promote(version, "production", GateOutcome(False, (), ("loss 2: missed by 1",)))
    here.promote(version, "production", GateOutcome(True, ("✓ loss",)))
    found = there.production("poet")
    assert found is not None
    assert (found.name, found.promotions[0].gate, found.metrics) == ("poet@1", ("✓ loss",), {"loss": 2.0})
    [ancestor] = there.lineage(found)
    assert (ancestor.run_id, ancestor.run_name, ancestor.fingerprint) == (run.run_id, "train", "a1")
    assert not list(tmp_path.glob("*/.platen/mlflow*.db"))
