"""When the registry's snapshot is gone by, and when MLflow is asked again."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from platen.core.errors import RegistryError
from platen.core.state.postgresql import PostgresState
from platen.registry.gate import GateOutcome
from platen.registry.snapshot import file_stamp
from platen.registry.tracking import MlflowTracker
from platen.registry.versions import Registry
from tests.postgres import PASSWORD

PASSED = GateOutcome(True, ("✓ loss 1, at most 2 wanted: met with 1",))


def release(registry: Registry, model: str, fingerprint: str) -> None:
    version = registry.register(model, fingerprint=fingerprint, source="s", metrics={"loss": 1.0})
    registry.promote(version, "production", PASSED)


def asks_mlflow(project: Path, model: str) -> tuple[str, bool]:
    """The production version's fingerprint as a new process sees it, and whether it loaded MLflow."""
    code = (
        "import sys, pathlib; from platen.registry.versions import Registry\n"
        "found = Registry(pathlib.Path(sys.argv[1])).production(sys.argv[2])\n"
        "print(found and found.fingerprint, 'mlflow' in sys.modules or 'sqlalchemy' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(project), model]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    fingerprint, loaded = done.stdout.split()
    return fingerprint, loaded == "True"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one released version."""
    project = tmp_path_factory.mktemp("made")
    release(Registry(project), "poet", "a1")
    return project


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy of it: what is copied is as fresh as before."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_what_platen_changed_or_logged_is_fresh(project: Path) -> None:
    assert asks_mlflow(project, "poet") == ("a1", False)
    with MlflowTracker(Registry(project).backend, experiment="x", run_name="r", fingerprint="a2") as run:
        run.log({"loss": 1.0}, 1)
    assert asks_mlflow(project, "poet") == ("a1", False)
    release(Registry(project), "poet", "a2")
    assert asks_mlflow(project, "poet") == ("a2", False)


def test_a_change_through_mlflows_own_page_is_seen_by_the_next_reader(project: Path) -> None:
    from mlflow.tracking import MlflowClient

    registry = Registry(project)
    registry.register("poet", fingerprint="a2", source="s", metrics={})
    MlflowClient(registry.backend.url).set_registered_model_alias("poet", "production", "2")
    assert asks_mlflow(project, "poet") == ("a2", True)
    assert asks_mlflow(project, "poet") == ("a2", False)


def test_without_a_snapshot_or_with_a_damaged_one_mlflow_is_asked(project: Path) -> None:
    snapshot = project / ".platen" / "registry.json"
    for content in (None, "{"):
        snapshot.unlink() if content is None else snapshot.write_text(content)
        assert asks_mlflow(project, "poet") == ("a1", True)


def test_a_snapshot_of_another_registry_does_not_count(project: Path, tmp_path: Path) -> None:
    elsewhere = Registry(project, url=f"sqlite:///{tmp_path / 'other.db'}")
    assert elsewhere.versions() == []
    release(elsewhere, "poet", "b1")
    production = Registry(project).production("poet")
    assert production is not None
    assert production.fingerprint == "a1"


def test_the_stamp_changes_with_every_write_and_is_none_while_one_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    for mode in ("delete", "wal"):
        with sqlite3.connect(file) as database:
            database.execute(f"PRAGMA journal_mode = {mode}")
            database.execute(f"CREATE TABLE t{mode} (a)")
            database.execute(f"INSERT INTO t{mode} VALUES (0)")
        database.close()
        stamps = []
        holder = sqlite3.connect(file)  # keeps the write-ahead log
        holder.execute(f"SELECT * FROM t{mode}").fetchall()
        for value in range(3):
            with sqlite3.connect(file) as database:
                database.execute(f"UPDATE t{mode} SET a = ?", (value,))
            database.close()
            stamps.append(file_stamp(file))
        assert len({str(stamp) for stamp in stamps}) == 3, mode
        assert file_stamp(file) == stamps[-1]
        holder.close()
    assert file_stamp(tmp_path / "none.db") is None
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA journal_mode = delete")
    database.execute("BEGIN IMMEDIATE")
    database.execute("PRAGMA cache_size = 1")
    database.execute("UPDATE tdelete SET a = 9")
    assert (tmp_path / "x.db-journal").exists()
    assert file_stamp(file) is None
    database.rollback()
    database.close()


def test_a_registry_in_postgresql_is_shared_and_shows_no_password(
    postgres: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = PostgresState(postgres, f"registry-{tmp_path.name}")
    here, there = (Registry(tmp_path / name, url=postgres, state=state) for name in ("here", "there"))
    release(here, "poet", "a1")
    found = there.production("poet")
    assert found is not None
    assert (found.fingerprint, found.number) == ("a1", 1)
    with MlflowTracker(there.backend, experiment="x", run_name="r", fingerprint="a2") as run:
        run.log({"loss": 1.0}, 1)
    assert there.register("poet", fingerprint="a2", source="s", metrics={}).run_id == run.run_id
    assert not (tmp_path / "there").exists()
    snapshot = state.document("registry").read()
    assert snapshot["source"] == postgres.replace(f"platen:{PASSWORD}@", "").replace("://", "+psycopg://")
    assert PASSWORD not in json.dumps(snapshot) + caplog.text + here.backend.shown


def test_while_a_database_is_away_what_was_last_known_is_told(
    postgres: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(Registry(tmp_path, url=postgres), "away", "a1")
    away = Registry(tmp_path, url=postgres.replace(PASSWORD, f"{PASSWORD}-changed"))
    assert [v.fingerprint for v in away.versions("away")] == ["a1"]  # within REMOTE_SECONDS
    assert caplog.text == ""
    monkeypatch.setattr("platen.registry.snapshot.REMOTE_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING):
        assert [v.fingerprint for v in away.versions("away")] == ["a1"]
    assert "going by what was registered" in caplog.text
    (tmp_path / ".platen" / "registry.json").unlink()
    with pytest.raises(RegistryError, match=r"postgresql\+psycopg://127") as error:
        away.versions()
    assert PASSWORD not in str(error.value) + caplog.text


def test_a_server_that_is_away_is_told_in_seconds_without_its_password(tmp_path: Path) -> None:
    registry = Registry(tmp_path, url="http://me:hidden@127.0.0.1:1")
    with pytest.raises(RegistryError, match=r"http://127\.0\.0\.1:1") as error:
        registry.versions()
    assert "hidden" not in str(error.value)
