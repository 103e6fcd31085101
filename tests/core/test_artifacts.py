"""The store: atomic, checked, and the same on a local folder and on an fsspec URL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from platen.core.artifacts import (
    Artifact,
    Manifest,
    SourceIndex,
    Store,
    fingerprint,
    now,
    sha256_file,
)
from platen.core.errors import ArtifactError
from platen.core.files import write_atomic


def manifest(name: str = "data", print_: str = "0123456789abcdef", **kwargs: object) -> Manifest:
    return Manifest.model_validate(
        {
            "name": name,
            "kind": name,
            "fingerprint": print_,
            "code_version": 1,
            "config": {},
            "created_at": now(),
            "duration_s": 0.1,
            **kwargs,
        }
    )


@pytest.fixture(params=["folder", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    url = {
        "folder": "store",
        "file": f"file://{tmp_path}/by-url",
        "memory": f"memory://{uuid.uuid4().hex}",
    }[request.param]
    return Store(url, base=tmp_path, scratch=tmp_path / "scratch")


def put(store: Store, record: Manifest, files: dict[str, str]) -> Artifact:
    work = store.work_dir(record.name, record.fingerprint, keep=False)
    for path, text in files.items():
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_text(text)
    return store.commit(work, record)


def test_a_committed_artifact_is_found_with_its_files_and_checksums(store: Store) -> None:
    put(store, manifest(metrics={"loss": 1.5}), {"a.txt": "hello", "deep/b.txt": "there"})
    found = store.find("data", "0123456789abcdef")
    assert found is not None
    assert (found.path / "deep/b.txt").read_text() == "there"
    assert found.manifest.metrics == {"loss": 1.5}
    # sha256 of "hello", from coreutils' sha256sum
    assert (
        found.manifest.files[0].sha256 == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    )
    assert found.manifest.size == 10
    assert store.verify(found) == []


def test_unfinished_work_is_no_artifact_and_is_listed_as_leftover(store: Store) -> None:
    work = store.work_dir("train", "f" * 16, keep=True)
    (work / "checkpoint").write_text("half")
    assert store.find("train", "f" * 16) is None
    assert store.manifests() == []
    assert store.leftovers() == [work]


def test_a_resumable_stage_finds_what_was_left_and_another_starts_empty(store: Store) -> None:
    (store.work_dir("train", "f" * 16, keep=True) / "checkpoint").write_text("half")
    assert (store.work_dir("train", "f" * 16, keep=True) / "checkpoint").read_text() == "half"
    assert list(store.work_dir("train", "f" * 16, keep=False).iterdir()) == []


def test_deleting_removes_it_everywhere(store: Store) -> None:
    record = put(store, manifest(), {"a.txt": "x"}).manifest
    store.delete(record)
    assert store.find("data", record.fingerprint) is None
    assert store.manifests() == []


def test_manifests_come_oldest_first(store: Store) -> None:
    second = put(store, manifest(print_="b" * 16), {"a": "2"}).manifest
    first = put(store, manifest(print_="a" * 16, created_at="2020-01-01T00:00:00Z"), {"a": "1"}).manifest
    assert [m.fingerprint for m in store.manifests()] == [first.fingerprint, second.fingerprint]


def test_a_missing_or_resized_file_is_reported(tmp_path: Path) -> None:
    store = Store("store", base=tmp_path, scratch=tmp_path / "scratch")
    artifact = put(store, manifest(), {"a.txt": "hello"})
    (artifact.path / "a.txt").write_text("hell")
    with pytest.raises(ArtifactError, match=r"a\.txt is missing or has changed"):
        store.find("data", artifact.manifest.fingerprint)


def test_verify_finds_a_flipped_byte_of_the_same_size(tmp_path: Path) -> None:
    store = Store("store", base=tmp_path, scratch=tmp_path / "scratch")
    artifact = put(store, manifest(), {"a.txt": "hello"})
    (artifact.path / "a.txt").write_text("hellp")
    assert store.verify(artifact) == ["a.txt"]


def test_a_damaged_manifest_says_so(tmp_path: Path) -> None:
    store = Store("store", base=tmp_path, scratch=tmp_path / "scratch")
    artifact = put(store, manifest(), {"a.txt": "hello"})
    (artifact.path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is damaged"):
        store.read_manifest("data", artifact.manifest.fingerprint)


def test_a_corrupt_remote_file_is_refused(tmp_path: Path) -> None:
    import fsspec

    url = f"memory://{uuid.uuid4().hex}"
    record = put(Store(url, base=tmp_path, scratch=tmp_path / "one"), manifest(), {"a.txt": "hello"}).manifest
    fsspec.filesystem("memory").pipe_file(f"{url}/data/{record.fingerprint}/a.txt", b"hellp")
    other_machine = Store(url, base=tmp_path, scratch=tmp_path / "two")
    with pytest.raises(ArtifactError, match="does not match its checksum"):
        other_machine.find("data", record.fingerprint)


def test_a_damaged_cache_is_fetched_again(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4()}"
    record = put(Store(url, base=tmp_path, scratch=tmp_path / "one"), manifest(), {"a.txt": "hello"}).manifest
    for name, spoil in (
        ("cut", lambda p: (p / "a.txt").write_text("")),
        ("half", lambda p: (p / "manifest.json").unlink()),
    ):
        store = Store(url, base=tmp_path, scratch=tmp_path / name)
        found = store.find(record.name, record.fingerprint)
        assert found is not None
        spoil(found.path)
        (found.path / "left-behind").write_text("")
        again = store.find(record.name, record.fingerprint)
        assert again is not None
        assert (again.path / "a.txt").read_text() == "hello"
        assert store.verify(again) == []


def test_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="store nosuch://x"):
        Store("nosuch://x", base=tmp_path, scratch=tmp_path)


def test_fingerprint_changes_with_each_thing_it_covers_and_with_nothing_else() -> None:
    base = fingerprint("train", 1, {"a": 1, "b": 2}, {"tokens": "t/1"})
    assert base == fingerprint("train", 1, {"b": 2, "a": 1}, {"tokens": "t/1"})
    others = {
        fingerprint("other", 1, {"a": 1, "b": 2}, {"tokens": "t/1"}),
        fingerprint("train", 2, {"a": 1, "b": 2}, {"tokens": "t/1"}),
        fingerprint("train", 1, {"a": 1, "b": 3}, {"tokens": "t/1"}),
        fingerprint("train", 1, {"a": 1, "b": 2}, {"tokens": "t/2"}),
    }
    assert len(others | {base}) == 5


def test_write_atomic_survives_kill_9_at_any_moment(tmp_path: Path) -> None:
    """A writer that alternates two large contents is killed at odd moments; one of them is always whole."""
    target = tmp_path / "state.json"
    script = (
        "import sys; from pathlib import Path; from platen.core.files import write_atomic\n"
        "contents = [b'a' * 3_000_000, b'b' * 2_000_000]\n"
        "print('go', flush=True)\n"
        "for i in range(100_000): write_atomic(Path(sys.argv[1]), contents[i % 2])\n"
    )
    for delay in (0.0, 0.013, 0.031, 0.057):
        process = subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        while not target.exists():
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        data = target.read_bytes()
        assert data in (b"a" * 3_000_000, b"b" * 2_000_000)


def test_source_index_sees_a_change_under_the_same_name_and_size(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("one")
    os.utime(source, (1_000_000, 1_000_000))
    index = SourceIndex(tmp_path / "index.json")
    first = index.describe(source, "a.txt")
    index.save()
    assert first.sha256 == sha256_file(source)
    write_atomic(source, b"two")
    again = SourceIndex(tmp_path / "index.json").describe(source, "a.txt")
    assert again.sha256 == sha256_file(source) != first.sha256
    assert json.loads((tmp_path / "index.json").read_text())
