"""A project's state: the same rules in files and in a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from platen.core.errors import ConfigError
from platen.core.state.embedded import EmbeddedState
from platen.core.state.interface import Column, LockHeldError, Schema, State, StateError, Table
from platen.core.state.open import open_state
from platen.core.state.postgresql import PostgresState, schema_name
from tests.postgres import PASSWORD

COUNTS = Schema(
    "counts",
    1,
    (
        Table(
            "counts",
            (Column("name", "text"), Column("n", "integer"), Column("x", "real"), Column("b", "blob", False)),
            ("name",),
        ),
    ),
)
NewState = Callable[[], State]


@pytest.fixture(params=["embedded", "postgresql"])
def new_state(request: pytest.FixtureRequest, tmp_path: Path) -> NewState:
    """Opens the same state anew, as another process would."""
    if request.param == "embedded":
        return lambda: EmbeddedState(tmp_path)
    url = request.getfixturevalue("postgres")
    return lambda: PostgresState(url, f"p-{tmp_path.name}")


def test_a_document_is_replaced_as_a_whole_and_seen_by_others(new_state: NewState) -> None:
    ours, theirs = new_state().document("notes"), new_state().document("notes")
    assert ours.read() is None
    assert ours.revision() is None
    ours.update(lambda before: {"was": before, "names": ["ä", "b"]})
    first = theirs.revision()
    assert theirs.read() == {"was": None, "names": ["ä", "b"]}
    theirs.update(lambda before: before["names"])
    assert ours.read() == ["ä", "b"]
    assert ours.revision() != first
    assert ours.revision() == theirs.revision()
    ours.delete()
    assert theirs.read() is None
    assert new_state().document("others").read() is None


def test_updates_of_several_writers_all_count(new_state: NewState) -> None:
    def add_five() -> None:
        document = new_state().document("sum")
        for _ in range(5):
            document.update(lambda before: (before or 0) + 1)

    threads = [threading.Thread(target=add_five) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert new_state().document("sum").read() == 20


def test_rows_are_kept_with_their_types_and_a_failed_transaction_leaves_none(new_state: NewState) -> None:
    tables = new_state().tables(COUNTS)
    with tables.reading() as rows:
        assert rows.execute("SELECT * FROM counts") == []
    before = tables.revision()
    with tables.writing() as rows:
        rows.execute_many(
            "INSERT INTO counts (name, n, x, b) VALUES (:name, :n, :x, :b)",
            [
                {"name": "big", "n": 2**40, "x": 0.1, "b": b"\x00\xff"},
                {"name": "small", "n": -1, "x": 1e-300, "b": None},
            ],
        )
    assert tables.revision() != before
    after = tables.revision()

    def fails_half_way() -> None:
        with tables.writing() as rows:
            rows.execute("DELETE FROM counts WHERE name = :name", {"name": "big"})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails_half_way()
    again = new_state().tables(COUNTS)
    with again.reading() as rows:
        found = rows.execute("SELECT name, n, x, b FROM counts ORDER BY name")
    assert [(name, n, x, b and bytes(b)) for name, n, x, b in found] == [
        ("big", 2**40, 0.1, b"\x00\xff"),
        ("small", -1, 1e-300, None),
    ]
    assert again.revision() == after


def test_tables_of_a_newer_release_are_left_alone(new_state: NewState) -> None:
    with new_state().tables(Schema("counts", 2, COUNTS.tables)).writing():
        pass
    with pytest.raises(StateError, match="newer"), new_state().tables(COUNTS).reading():
        pass


def test_one_holds_a_lock_and_the_next_is_told_who(new_state: NewState) -> None:
    told: list[str] = []
    with new_state().lock("run"):
        with (
            pytest.raises(LockHeldError) as refusal,
            new_state().lock("run", waiting=told.append, timeout=0.3),
        ):
            pass
        with new_state().lock("other", timeout=0):  # of another name
            pass
    assert told == [refusal.value.owner]
    assert told[0].startswith(f"process {os.getpid()}")
    with new_state().lock("run", timeout=0):
        pass


HOLDER = """
import sys, time
from pathlib import Path
from platen.core.state.open import open_state
state = open_state(Path(sys.argv[1]), sys.argv[2], sys.argv[3] or None)
with state.lock("run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holders_lock_is_free(new_state: NewState, tmp_path: Path) -> None:
    state = new_state()
    project, url = f"p-{tmp_path.name}", state.url if isinstance(state, PostgresState) else ""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), project, url], stdout=subprocess.PIPE, text=True
    )
    told: list[str] = []
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockHeldError, match=f"process {holder.pid}"):
            state.lock("run", waiting=told.append, timeout=0.2).__enter__()
        assert told[0].startswith(f"process {holder.pid}")
    finally:
        holder.kill()
        holder.communicate()
    with state.lock("run", timeout=10):
        pass


def test_projects_in_one_database_are_apart(postgres: str, tmp_path: Path) -> None:
    names = [f"a-{tmp_path.name}", f"b-{tmp_path.name}"]
    a, b = (PostgresState(postgres, name) for name in names)
    a.document("x").update(lambda _: 1)
    assert b.document("x").read() is None
    with a.lock("run"), b.lock("run", timeout=0):
        pass
    long = "x" * 63
    assert len(schema_name(long)) <= 63
    assert schema_name(long) != schema_name(long[:-1] + "y")


def test_errors_name_the_database_but_no_password(postgres: str) -> None:
    elsewhere = postgres.rpartition(":")[0] + ":1/postgres"
    wrong = postgres.replace(PASSWORD, PASSWORD + "-wrong")
    for url in (elsewhere, wrong):
        state = PostgresState(url, "p")
        for attempt in (state.document("x").read, state.tables(COUNTS).revision):
            with pytest.raises(StateError, match=r"postgresql://127\.0\.0\.1:") as error:
                attempt()
            assert PASSWORD not in str(error.value)
            assert error.value.__cause__ is None
        with pytest.raises(StateError), state.lock("run"):
            pass
    assert PASSWORD not in state.shown


def test_the_url_decides_where_state_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: str
) -> None:
    assert isinstance(open_state(tmp_path, "p"), EmbeddedState)
    assert open_state(tmp_path, "p", postgres).shared
    monkeypatch.setenv("PLATEN_STATE_URL", postgres)
    assert open_state(tmp_path, "p").shared
    monkeypatch.setenv("PLATEN_STATE_URL", "mysql://me:hidden@db/x")
    with pytest.raises(ConfigError, match="mysql://db/x") as error:
        open_state(tmp_path, "p")
    assert "hidden" not in str(error.value)


def test_reading_files_makes_none(tmp_path: Path) -> None:
    state = EmbeddedState(tmp_path)
    assert state.document("x").read() is None
    with state.tables(COUNTS).reading() as rows:
        assert rows.execute("SELECT * FROM counts") == []
    assert state.tables(COUNTS).revision() == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_document_that_is_no_json_is_told_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / ".platen" / "x.json"
    file.parent.mkdir()
    file.write_text('{"half')
    document = EmbeddedState(tmp_path).document("x", private=True)
    with pytest.raises(StateError, match=r"x\.json can't be read"):
        document.read()
    document.update(lambda before: [before])
    assert document.read() == [None]
    assert file.stat().st_mode & 0o077 == 0


def test_a_lock_waits_for_its_holder(tmp_path: Path) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with EmbeddedState(tmp_path).lock("run"):
            held.set()
            done.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(20)
    threading.Timer(0.3, done.set).start()
    started = time.monotonic()
    with EmbeddedState(tmp_path).lock("run", timeout=20):
        assert time.monotonic() - started > 0.2
        assert (tmp_path / ".platen" / "run.pid").read_text() == str(os.getpid())
    holder.join()
    assert not (tmp_path / ".platen" / "run.pid").exists()
