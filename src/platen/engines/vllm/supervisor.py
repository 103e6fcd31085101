"""Runs a command that never outlives its parent: `python -m platen.engines.vllm.supervisor COMMAND...`.

Standard input is the leash: when it closes, because the asker closed it or died in whatever way, the command
and all that it started get SIGTERM, and what is left after a while SIGKILL. Must lead a process group of its
own. Exits as the command did.
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


def keep(command: list[str]) -> int:
    """Run `command` until it ends or the leash is let go; its exit code, negative for a signal."""
    for number in (signal.SIGTERM, signal.SIGINT):  # sent to the whole group: the keeper stays to see it end
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_own_signals)
    threading.Thread(target=_watch_leash, daemon=True).start()
    code = child.wait()
    _end_group()  # what the command has started and left behind
    return code


def _own_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":  # should the keeper itself be killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _watch_leash() -> None:
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
    code = keep(sys.argv[1:])
    sys.exit(code if code >= 0 else 128 - code)
