"""The process that parses what may hang, crash or swell: used for many files, replaced when it dies.

A request is a line of JSON and the file's bytes; the answer is a length and JSON. The kernel holds the
process to its memory and processor time, so a busy machine makes nobody's document "too slow".
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import IO, Any

from platen.data.readers.config import ReadLimits

_LIFETIME = 2000  # documents, after which a fresh process gives back what libraries never freed
_PATIENCE = 10  # wall-clock seconds allowed for each second of processor time


@dataclass(frozen=True)
class Problem:
    """Something that could not be parsed; `where` within the file, if not all of it."""

    reason: str
    detail: str
    where: str = ""


@dataclass(frozen=True)
class Parsed:
    """The text of a file, what else it says of itself, and its parts that gave none."""

    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


class Parser:
    """One parsing process at a time; threads take turns."""

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._parsed = 0
        self._lock = threading.Lock()

    def parse(self, kind: str, raw: bytes) -> Parsed:
        """The text in a file of kind `html` (UTF-8), `pdf`, `docx` or `epub`; never an exception."""
        with self._lock:
            if self._process is None or self._parsed >= _LIFETIME:
                self._start()
            self._parsed += 1
            answer = self._ask(kind, raw)
            if answer is None:
                return Parsed(problems=(self._death(),))
        content = json.loads(answer)
        return Parsed(
            content["text"], content["metadata"], tuple(Problem(**problem) for problem in content["problems"])
        )

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> None:
        self.close()
        self._parsed = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "platen.data.readers.worker", self._limits.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _ask(self, kind: str, raw: bytes) -> bytes | None:
        """The process's answer; None when it died or gave none in time."""
        assert self._process is not None
        ask, answer = self._process.stdin, self._process.stdout
        assert ask is not None
        assert answer is not None
        try:
            ask.write(json.dumps({"kind": kind, "length": len(raw)}).encode() + b"\n" + raw)
            ask.flush()
        except OSError:
            return None
        deadline = time.monotonic() + _PATIENCE * self._limits.parse_seconds
        head = _read(answer, 8, deadline)
        return None if head is None else _read(answer, struct.unpack(">Q", head)[0], deadline)

    def _death(self) -> Problem:
        """Why there was no answer; the next document gets a new process."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout=5)  # its pipe is closed: it is dead or about to be
        except subprocess.TimeoutExpired:
            code = -signal.SIGXCPU
        self.close()
        if code == -signal.SIGXCPU:
            return Problem("time", f"parsing took more than {self._limits.parse_seconds} s")
        return Problem("crash", f"the parser ended with {_name(code)}")


def _read(stream: IO[bytes], size: int, deadline: float) -> bytes | None:
    """Exactly `size` bytes; None at the stream's end or the deadline (of `time.monotonic`)."""
    parts: list[bytes] = []
    while size:
        wait = max(deadline - time.monotonic(), 0)
        if not select.select([stream], [], [], wait)[0]:
            return None
        part = os.read(stream.fileno(), min(size, 2**20))  # past the buffer, which select does not see
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


def parser(limits: ReadLimits) -> Parser:
    """The parser of this process for these limits; a forked process has its own."""
    return _parser(limits, os.getpid())


@cache
def _parser(limits: ReadLimits, _process: int) -> Parser:
    made = Parser(limits)
    atexit.register(made.close)
    return made
