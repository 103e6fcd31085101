"""Starts a server and asks it at once: when its first token comes, and what memory it then holds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ANSWER_WITHIN = 1800


@dataclass(frozen=True)
class Start:
    """Seconds from exec to the first token, resident bytes after the answer and at most, CPU seconds."""

    seconds: float
    memory: int
    peak: int
    cpu_seconds: float


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def platen_command(folder: Path, *more: str) -> tuple[list[str], int]:
    """`platen serve` of a folder, and its port."""
    port = free_port()
    command = [sys.executable, "-m", "platen", "serve", str(folder), "--port", str(port), "--name", "bench"]
    return [*command, *more], port


def measure_start(command: list[str], port: int, prompt: list[int]) -> Start:
    """Start a server, ask it until it answers, and stop it. Raises RuntimeError when it ends or refuses."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while (first := _first_token(port, prompt)) is None:
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
            if time.perf_counter() - began > ANSWER_WITHIN:
                raise RuntimeError(f"{' '.join(command)} does not answer")
            time.sleep(0.01)
        return _measured(process.pid, first - began)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _first_token(port: int, prompt: list[int]) -> float | None:
    """When the first token of a streamed answer came; None while there is no server that is ready."""
    body = {"model": "bench", "prompt": prompt, "max_tokens": 8, "temperature": 0, "stream": True}
    content = json.dumps(body | {"ignore_eos": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: {len(content)}\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n\r\n"
    seen, first = b"", None
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(ANSWER_WITHIN)
        connection.sendall(head.encode() + content)
        while piece := connection.recv(65536):
            seen += piece
            if first is None and b"data: {" in seen:
                first = time.perf_counter()
    if first is None and seen and b" 503 " not in seen[:20]:
        raise RuntimeError(f"the server answered {seen[:500]!r}")
    return first


def _measured(pid: int, seconds: float) -> Start:
    status = Path(f"/proc/{pid}/status").read_text("utf-8")

    def bytes_of(key: str) -> int:
        found = re.search(rf"{key}:\s+(\d+) kB", status)
        return 1024 * int(found[1]) if found else 0

    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return Start(seconds, bytes_of("VmRSS"), bytes_of("VmHWM"), (int(fields[11]) + int(fields[12])) / ticks)
