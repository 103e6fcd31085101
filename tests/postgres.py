"""A real PostgreSQL in a folder of its own, for the tests of shared state."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "platen"
PASSWORD = "s3cret-and-never-shown"


def _programs() -> Path | None:
    """The folder of `initdb` and `postgres`; Debian keeps them off the PATH."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").is_file() and (f / "postgres").is_file()), None)


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of a database of its own, with a password; skips where PostgreSQL is not installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed; `make setup` installs it")
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no user 'postgres' to run PostgreSQL as")
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    else:
        account, as_user = None, {}
    folder = Path(tempfile.mkdtemp(prefix="platen-postgres-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        (folder / "password").write_text(PASSWORD)
        if account is not None:
            for path in (folder, folder / "password"):
                os.chown(path, account.pw_uid, account.pw_gid)
        make = [
            programs / "initdb",
            "-D",
            folder / "data",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]
        make += ["-U", USER, "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **as_user)  # type: ignore[call-overload]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [programs / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port)]
        command += ["-k", folder, "-c", "fsync=off", "-c", "max_connections=60"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **as_user)  # type: ignore[call-overload]
        _wait(process, port, folder / "log")
        yield f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # its fast shutdown: ends the connections that there are
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
    raise AssertionError(log.read_text())
