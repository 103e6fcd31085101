"""The parsing process's own side: it answers requests on its standard input until that ends.

It is held to its memory by the kernel from the start, and to a document's processor time before each.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from dataclasses import asdict
from importlib import import_module

from platen.core.errors import first_line
from platen.data.readers.config import ReadLimits
from platen.data.readers.parser import Parsed, Problem
from platen.data.sourcefile import TooMuch


def main() -> None:
    """Answer requests. The only argument: the limits, as JSON."""
    limits = ReadLimits.model_validate_json(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints must not become an answer
    _bound_memory(limits.parse_memory_bytes)
    requests = sys.stdin.buffer
    while head := requests.readline():
        request = json.loads(head)
        raw = requests.read(request["length"])
        _bound_time(limits.parse_seconds)
        answer = json.dumps(asdict(parse(request["kind"], raw, limits))).encode()
        answers.write(struct.pack(">Q", len(answer)) + answer)
        answers.flush()


def parse(kind: str, raw: bytes, limits: ReadLimits) -> Parsed:
    """Parse in this very process. Whatever a library raises is a problem of the file."""
    try:
        parsed: Parsed = import_module(f"platen.data.readers.parse_{kind}").parse(raw, limits)
        return parsed
    except MemoryError:
        return _problem("memory", f"parsing needs more than {limits.parse_memory_bytes:,} bytes of memory")
    except RecursionError:
        return _problem("malformed", "nested too deeply")
    except TooMuch as error:
        return _problem("expansion", str(error))
    except Exception as error:
        said = first_line(error)[:300]
        return _problem("malformed", f"{said} ({type(error).__name__})")


def _problem(reason: str, detail: str) -> Parsed:
    return Parsed(problems=(Problem(reason, detail),))


def _bound_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _bound_time(seconds: int) -> None:
    """Let the kernel end this process by SIGXCPU when it has used this much more processor time."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
