"""Models at URLs: downloaded in parallel pieces, resumed, verified, shared and evicted."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from platen.core import download
from platen.core.artifacts import Manifest, describe_files, now
from platen.core.errors import ArtifactError
from platen.models.bundle import open_bundle
from platen.models.store import ModelCache

PIECE = download.PIECE_BYTES


def memory_folder(files: dict[str, bytes], *, manifest: bool = False, tmp_path: Path | None = None) -> str:
    """A folder of these files in memory, and its address."""
    url = f"memory://{uuid.uuid4().hex}/model"
    fs = fsspec.filesystem("memory")
    for path, data in files.items():
        fs.pipe_file(f"{url}/{path}", data)
    if manifest:
        assert tmp_path is not None
        made = tmp_path / "made"
        for path, data in files.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_bytes(data)
        record = Manifest(
            name="train",
            kind="model",
            fingerprint="f" * 16,
            code_version=1,
            config={},
            files=describe_files(made),
            created_at=now(),
            duration_s=1,
        )
        fs.pipe_file(f"{url}/manifest.json", record.model_dump_json().encode())
    return url


def model_files(size: int = 3) -> dict[str, bytes]:
    return {"config.json": b"{}", "model.safetensors": os.urandom(size)}


class Server:
    """Serves files on loopback by HTTP; it notes each range it is asked for, and can hold them back."""

    def __init__(self, files: dict[str, bytes], *, ranges: bool = True) -> None:
        self.asked: list[tuple[str, int]] = []
        self.allowed = threading.Semaphore(10_000)
        self.held_back = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                if name not in files:
                    self.answer(404, b"")
                    return
                data = files[name]
                if ranges and (wanted := self.headers.get("range")):
                    first, _, last = wanted.removeprefix("bytes=").partition("-")
                    server.note(name, int(first))
                    self.answer(206, data[int(first) : int(last) + 1])
                else:
                    if self.command == "GET":
                        server.note(name, 0)
                    self.answer(200, data)

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.send_header("connection", "close")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/model"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def note(self, name: str, first: int) -> None:
        if name == "model.safetensors":
            if not self.allowed.acquire(blocking=False):
                self.held_back.set()
                self.allowed.acquire()
            self.asked.append((name, first))

    def close(self) -> None:
        for _ in range(100):
            self.allowed.release()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def big() -> dict[str, bytes]:
    """A model of four and a half pieces, with a manifest, as a server has it."""
    return model_files(4 * PIECE + PIECE // 2)


@pytest.fixture
def server(big: dict[str, bytes], tmp_path: Path) -> Iterator[Server]:
    url = memory_folder(big, manifest=True, tmp_path=tmp_path)
    manifest = fsspec.filesystem("memory").cat_file(f"{url}/manifest.json")
    server = Server(big | {"manifest.json": manifest})
    yield server
    server.close()


def test_a_bundle_in_an_object_store_opens_like_one_here(tiny_bundle: Path, tmp_path: Path) -> None:
    url = memory_folder({file.name: file.read_bytes() for file in tiny_bundle.iterdir()})
    held = ModelCache(tmp_path).open(url)
    assert open_bundle(held.path).fingerprint == open_bundle(tiny_bundle).fingerprint


def test_a_folder_on_this_machine_is_not_copied(tiny_bundle: Path, tmp_path: Path) -> None:
    assert ModelCache(tmp_path).open(f"file://{tiny_bundle}").path == tiny_bundle
    assert list(tmp_path.iterdir()) == []


def test_of_an_artifact_only_the_model_comes(tmp_path: Path) -> None:
    url = memory_folder(model_files() | {"training/last.safetensors": b"x"}, manifest=True, tmp_path=tmp_path)
    held = ModelCache(tmp_path / "cache").open(url)
    assert sorted(file.name for file in held.path.iterdir()) == ["config.json", "model.safetensors"]


def test_pieces_make_the_file_and_a_second_start_asks_for_none(
    server: Server, big: dict[str, bytes], tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    held = ModelCache(tmp_path / "cache").open(
        server.url, report=lambda done, total: seen.append((done, total))
    )
    assert (held.path / "model.safetensors").read_bytes() == big["model.safetensors"]
    assert sorted(first for _, first in server.asked) == [i * PIECE for i in range(5)]
    total = sum(map(len, big.values()))
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    again = ModelCache(tmp_path / "cache").open(server.url)
    assert again.path == held.path
    assert len(server.asked) == 5


def test_killed_in_the_middle_it_goes_on_from_there(
    server: Server, big: dict[str, bytes], tmp_path: Path
) -> None:
    server.allowed = threading.Semaphore(2)
    program = "import sys; from pathlib import Path; from platen.models.store import ModelCache\n"
    program += "ModelCache(Path(sys.argv[1])).open(sys.argv[2])"
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "cache"), server.url])
    try:
        assert server.held_back.wait(30)
        (notes,) = _wait_for_pieces(tmp_path / "cache", 2)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    there = {index * PIECE for index, done in enumerate(notes.read_bytes()) if done}
    asked_before = len(server.asked)
    server.allowed = threading.Semaphore(10_000)
    held = ModelCache(tmp_path / "cache").open(server.url)
    assert (held.path / "model.safetensors").read_bytes() == big["model.safetensors"]
    assert {first for _, first in server.asked[asked_before:]} == {i * PIECE for i in range(5)} - there
    assert [file.name for file in held.path.iterdir() if ".part" in file.name] == []


def _wait_for_pieces(cache: Path, count: int) -> list[Path]:
    import time

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        notes = list(cache.glob("models/*/model.safetensors.part.done"))
        if notes and notes[0].read_bytes().count(1) >= count:
            return notes
        time.sleep(0.01)
    raise AssertionError("the pieces were never written")


def test_a_server_without_ranges_gives_the_whole(big: dict[str, bytes], tmp_path: Path) -> None:
    url = memory_folder(big, manifest=True, tmp_path=tmp_path)
    manifest = fsspec.filesystem("memory").cat_file(f"{url}/manifest.json")
    server = Server(big | {"manifest.json": manifest}, ranges=False)
    try:
        held = ModelCache(tmp_path / "cache").open(server.url)
        assert (held.path / "model.safetensors").read_bytes() == big["model.safetensors"]
        assert len(server.asked) == 1
    finally:
        server.close()


@pytest.mark.parametrize("manifest", [True, False])
def test_what_was_spoiled_here_is_fetched_again(tmp_path: Path, manifest: bool) -> None:
    files = model_files(1000)
    url = memory_folder(files, manifest=manifest, tmp_path=tmp_path)
    cache = ModelCache(tmp_path / "cache")
    weights = cache.open(url).path / "model.safetensors"
    for spoilt in (b"x" + files["model.safetensors"][1:], b""):
        weights.write_bytes(spoilt)
        assert (cache.open(url).path / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_what_is_spoiled_at_its_source_is_never_served(tmp_path: Path) -> None:
    url = memory_folder(model_files(1000), manifest=True, tmp_path=tmp_path)
    fsspec.filesystem("memory").pipe_file(f"{url}/model.safetensors", os.urandom(1000))
    with pytest.raises(ArtifactError, match=r"model\.safetensors .* does not match its checksum"):
        ModelCache(tmp_path / "cache").open(url)


def test_new_files_at_the_same_address_are_a_new_model(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache")
    url = memory_folder(model_files(10))
    first = cache.open(url)
    fsspec.filesystem("memory").pipe_file(f"{url}/model.safetensors", b"0123456789")
    second = cache.open(url)
    assert second.path != first.path
    assert (second.path / "model.safetensors").read_bytes() == b"0123456789"


def test_two_starting_at_once_download_once(server: Server, tmp_path: Path) -> None:
    server.allowed = threading.Semaphore(1)
    waits = threading.Event()
    paths: list[Path] = []

    def start() -> None:
        held = ModelCache(tmp_path / "cache").open(server.url, waiting=lambda _: waits.set())
        paths.append(held.path)

    threads = [threading.Thread(target=start) for _ in range(2)]
    threads[0].start()
    assert server.held_back.wait(20)
    threads[1].start()
    assert waits.wait(20)
    for _ in range(10):
        server.allowed.release()
    for thread in threads:
        thread.join(20)
    assert len(paths) == 2
    assert paths[0] == paths[1]
    assert len(server.asked) == 5


def test_the_longest_unused_goes_first_and_never_what_is_in_use(tmp_path: Path) -> None:
    urls = [memory_folder(model_files(1000)) for _ in range(4)]
    cache = ModelCache(tmp_path / "cache", max_bytes=2500)

    def here() -> set[int]:
        return {i for i, path in paths.items() if path.is_dir()}

    holds = {}
    paths: dict[int, Path] = {}
    for i in (0, 1):
        holds[i] = cache.open(urls[i])
        paths[i] = holds[i].path
    with pytest.raises(ArtifactError, match="2,004 are in use"):
        cache.open(urls[2])
    holds[0].release()
    holds[1].release()
    os.utime(next((tmp_path / "cache/models").glob(f"{paths[1].name}.json")), (1, 1))
    holds[2] = cache.open(urls[2])
    paths[2] = holds[2].path
    assert here() == {0, 2}
    holds[3] = cache.open(urls[3])
    paths[3] = holds[3].path
    assert here() == {2, 3}
    with pytest.raises(ArtifactError, match="may take 100"):
        ModelCache(tmp_path / "small", max_bytes=100).open(urls[0])


def test_a_disk_too_full_is_said_before_and_during(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = memory_folder(model_files(1000))
    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
        with pytest.raises(ArtifactError, match=r"too full .* 1,002 bytes are to come, 10 are free"):
            ModelCache(tmp_path / "cache").open(url)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download.os, "pwrite", full)
        with pytest.raises(ArtifactError, match="filled up"):
            ModelCache(tmp_path / "cache").open(url)
    assert ModelCache(tmp_path / "cache").open(url).path.is_dir()


def test_a_failing_connection_is_tried_again_and_then_told_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = memory_folder(model_files(1000), manifest=True, tmp_path=tmp_path)
    fs = fsspec.filesystem("memory")
    whole, failures = type(fs).cat_file, [ConnectionResetError("?signature=secret")] * 2

    def flaky(self: object, path: str, start: int | None = None, end: int | None = None) -> bytes:
        if "safetensors" in path and failures:
            raise failures.pop()
        return bytes(whole(self, path, start, end))

    monkeypatch.setattr(type(fs), "cat_file", flaky)
    assert ModelCache(tmp_path / "one").open(url).path.is_dir()
    monkeypatch.setattr(download, "_TRIES", 2)
    failures[:] = [ConnectionResetError("?signature=secret")] * 100
    with pytest.raises(ArtifactError, match="ConnectionResetError") as refused:
        ModelCache(tmp_path / "two").open(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory://nothing/here", "there is no model at memory://nothing/here"),
        ("http://user:secret@127.0.0.1:1/model?token=secret", "http://127.0.0.1:1/model"),
        ("nosuch://bucket/model", "nosuch://bucket/model is no address"),
    ],
)
def test_an_address_with_nothing_is_told_without_secrets(url: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as refused:
        ModelCache(tmp_path).open(url)
    assert says in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_model_that_was_here_before_starts_when_its_store_is_down(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = ModelCache(tmp_path / "cache").open(server.url)
    server.close()
    again = ModelCache(tmp_path / "cache").open(server.url)
    assert again.path == held.path
    assert "the copy of it" in caplog.text
    (held.path / "model.safetensors").write_bytes(b"spoilt")
    with pytest.raises(ArtifactError, match="can't be downloaded"):
        ModelCache(tmp_path / "cache").open(server.url)
    with pytest.raises(ArtifactError, match="can't be read"):
        ModelCache(tmp_path / "cache").open(f"{server.url}/other")


def test_a_manifest_can_not_write_outside(tmp_path: Path) -> None:
    url = memory_folder(model_files(), manifest=True, tmp_path=tmp_path)
    fs = fsspec.filesystem("memory")
    text = fs.cat_file(f"{url}/manifest.json").replace(b'"config.json"', b'".."')
    fs.pipe_file(f"{url}/manifest.json", text)
    with pytest.raises(ArtifactError, match="outside"):
        ModelCache(tmp_path / "cache").open(url)
