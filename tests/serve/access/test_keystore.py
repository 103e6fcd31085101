"""The file of keys: what is in it, what is not, and several writing it at once."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from platen.core.state.embedded import EmbeddedState
from platen.core.state.interface import StateError
from platen.core.state.postgresql import PostgresState
from platen.serve.access.keys import Grant, Limits, Scope, new_key, parts_of
from platen.serve.access.keystore import KeyStore, KeyStoreError, Spent, month_of
from platen.serve.access.usage import Ledger
from platen.web.errors import ApiError

EVERYTHING = Grant(
    "alice",
    "acme",
    frozenset({Scope.infer, Scope.metrics}),
    ("llama-*", "gpt"),
    "high",
    Limits(10, 20_000, 3_000_000, 4.5),
    datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
)


def test_what_is_created_is_read_again(tmp_path: Path) -> None:
    store = KeyStore(EmbeddedState(tmp_path))
    assert store.read().keys == {}
    created, _ = store.create(EVERYTHING)
    plain, _ = store.create(Grant("bob", "bob"))
    assert list(store.read().keys.values()) == [created, plain]
    assert store.read().keys[created.id].grant == EVERYTHING


def test_the_file_holds_no_secret_and_is_for_its_owner(tmp_path: Path) -> None:
    store = KeyStore(EmbeddedState(tmp_path))
    key, text = store.create(EVERYTHING)
    secret = text.removeprefix(f"platen_{key.id}_")
    assert len(secret) == 43  # 256 bits in base64
    content = b"".join(file.read_bytes() for file in (tmp_path / ".platen").iterdir())
    assert key.id.encode() in content
    assert secret.encode() not in content
    assert (tmp_path / ".platen" / "keys.db").stat().st_mode & 0o077 == 0


def test_only_the_whole_secret_matches() -> None:
    key, text = new_key(EVERYTHING)
    parts = parts_of(text.encode())
    assert parts is not None
    assert parts[0] == key.id
    assert key.matches(parts[1])
    assert not any(key.matches(wrong) for wrong in (b"", parts[1][:-1], parts[1] + b"A", parts[1][::-1]))
    assert new_key(EVERYTHING)[1] != text
    for foreign in (b"", b"sk-abc", b"platen", b"platen_", b"platen_x", b"other_1_2"):
        assert parts_of(foreign) is None


def test_a_revoked_key_stays_revoked_and_frees_its_name(tmp_path: Path) -> None:
    store = KeyStore(EmbeddedState(tmp_path))
    first, _ = store.create(Grant("alice", "alice"))
    with pytest.raises(KeyStoreError, match="already"):
        store.create(Grant("alice", "alice"))
    store.revoke("alice")
    second, _ = store.create(Grant("alice", "alice"))
    store.revoke(second.id)
    now = datetime.now(UTC)
    assert [key.state(now) for key in store.read().keys.values()] == ["revoked", "revoked"]
    for unknown in ("alice", first.id, "nobody"):
        with pytest.raises(KeyStoreError, match="no key"):
            store.revoke(unknown)


def test_usage_of_several_servers_adds_up_by_month(tmp_path: Path) -> None:
    state = EmbeddedState(tmp_path)
    month = month_of(datetime.now(UTC))
    last = month_of(datetime.now(UTC).replace(day=1) - timedelta(days=1))

    def count() -> None:
        store = KeyStore(state)
        for _ in range(10):
            store.add({("k", month): Spent(1, 2, 3, 0.5), ("k", last): Spent(100, 100, 100, 100)})

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert KeyStore(state).read().spent == {"k": Spent(30, 60, 90, 15.0)}
    assert KeyStore(state).read().spent["k"].tokens == 150


def test_its_revision_changes_with_its_content(tmp_path: Path) -> None:
    store, other = KeyStore(EmbeddedState(tmp_path)), KeyStore(EmbeddedState(tmp_path))
    revisions = [store.revision()]
    other.create(EVERYTHING)
    revisions.append(store.revision())
    other.revoke("alice")
    revisions.append(store.revision())
    assert len(set(revisions)) == 3
    assert store.revision() == revisions[-1]


def test_a_file_that_is_no_file_of_keys_is_told(tmp_path: Path) -> None:
    state = EmbeddedState(tmp_path)
    path = state.folder / "keys.db"
    path.parent.mkdir()
    path.write_text("this is not a database, and long enough to be taken for one" * 20)
    with pytest.raises(StateError, match=r"keys\.db"):
        KeyStore(state).read()
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match="newer"):
        KeyStore(state).create(EVERYTHING)


def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    store = KeyStore(EmbeddedState(tmp_path))
    key, _ = store.create(EVERYTHING)
    ledger = Ledger(store)
    ledger.add(key, Spent(1, 2, 3, 0.5))
    path = tmp_path / ".platen" / "keys.db"
    content = path.read_bytes()
    path.write_bytes(b"not a database at all" * 100)
    asyncio.run(ledger.sync())
    ledger.add(key, Spent(1, 2, 3, 0.5))
    assert ledger.key(key.id) == key
    assert ledger.spent(key.id) == Spent(2, 4, 6, 1.0)
    path.write_bytes(content)
    asyncio.run(ledger.sync())
    assert store.read().spent == {key.id: Spent(2, 4, 6, 1.0)}
    assert ledger.spent(key.id) == Spent(2, 4, 6, 1.0)


def test_what_is_set_aside_is_not_there_for_others(tmp_path: Path) -> None:
    store = KeyStore(EmbeddedState(tmp_path))
    key, _ = store.create(Grant("a", "a", limits=Limits(tokens=100, money=1.0)))
    ledger = Ledger(store)
    first = ledger.reserve(key, 60, 0.1)
    for tokens, money in ((41, 0.1), (40, 0.91)):
        with pytest.raises(ApiError):
            ledger.reserve(key, tokens, money)
    second = ledger.reserve(key, 40, 0.9)
    ledger.release(key, first)
    ledger.release(key, second)
    ledger.add(key, Spent(1, 50, 10, 0.5))
    ledger.reserve(key, 40, 0.5)


def test_servers_on_several_machines_share_keys_and_usage(postgres: str, tmp_path: Path) -> None:
    here, there = (KeyStore(PostgresState(postgres, f"k-{tmp_path.name}")) for _ in range(2))
    assert here.read().keys == {}
    key, text = here.create(EVERYTHING)
    assert there.read().keys == {key.id: key}
    parts = parts_of(text.encode())
    assert parts is not None
    assert there.read().keys[key.id].matches(parts[1])
    ledgers = [Ledger(here), Ledger(there)]
    for ledger in ledgers:
        ledger.add(key, Spent(1, 2, 3, 0.5))
        asyncio.run(ledger.sync())
    asyncio.run(ledgers[0].sync())  # learns what the other counted, by the revision alone
    assert [ledger.spent(key.id) for ledger in ledgers] == [Spent(2, 4, 6, 1.0)] * 2
    there.revoke("alice")
    asyncio.run(ledgers[0].sync())
    revoked = ledgers[0].key(key.id)
    assert revoked is not None
    assert revoked.state(datetime.now(UTC)) == "revoked"
    with pytest.raises(KeyStoreError, match="no key"):
        here.revoke("alice")


def test_keys_of_one_name_made_at_once_are_one(postgres: str, tmp_path: Path) -> None:
    made: list[str] = []

    def create() -> None:
        with contextlib.suppress(KeyStoreError):
            made.append(KeyStore(PostgresState(postgres, f"k-{tmp_path.name}")).create(EVERYTHING)[0].id)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 1
