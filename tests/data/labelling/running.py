"""The labelling page as a process of its own, which can be killed and started again on its port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LabellingProcess:
    """`platen data label` on one file of judgements; `url` stays the same over restarts."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._arguments = arguments
        self._port = 0
        self.url = ""
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "platen", "data", "label", *self._arguments]
        self._process = subprocess.Popen(
            [*command, "--port", str(self._port)],
            cwd=self._folder,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        said = ""
        while "Labelling at" not in said:
            line = self._process.stdout.readline()
            assert line, f"ended early: {said}"
            said += line
        self.url = said.split("Labelling at ")[1].split()[0]
        self._port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """As `kill -9` does."""
        self._process.kill()
        self._process.communicate(timeout=30)

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C; the exit code and what was still said."""
        self._process.send_signal(signal.SIGINT)
        said, _ = self._process.communicate(timeout=30)
        return self._process.returncode, said


@contextmanager
def labelling(folder: Path, *arguments: str) -> Iterator[LabellingProcess]:
    process = LabellingProcess(folder, *arguments)
    try:
        yield process
    finally:
        process.kill()
