"""Runs a command that never outlives its parent: `python -m platen.engines.vllm.supervisor COMMAND...`.

When standard input closes, because the parent closed it or died, the command and all its children get
SIGTERM, and those left after a grace period SIGKILL. It must lead a process group of its own, and exits with
the command's code.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil

GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def supervise(command: list[str]) -> int:
    """Run `command` until it ends or standard input closes; its exit code, negative for a signal."""
    for number in (signal.SIGTERM, signal.SIGINT):  # the whole group gets them; this process stays
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_own_signals)
    threading.Thread(target=_watch_parent, daemon=True).start()
    code = child.wait()
    _end_group()  # children that the command left behind
    return code


def _own_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":  # if the supervisor itself is killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _watch_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    _end_group()


def _end_group() -> None:
    """SIGTERM to all others of the group, and after a while SIGKILL."""
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while (others := _others()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in others:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _others() -> list[int]:
    """The living processes of this group but this one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == os.getpgrp() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return [pid for pid in found if pid != os.getpid()]


if __name__ == "__main__":
    code = supervise(sys.argv[1:])
    sys.exit(code if code >= 0 else 128 - code)
