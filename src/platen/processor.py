"""What this machine's processor is called and what it can do, as the system tells."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


@cache
def processor() -> str:
    """The processor's name."""
    return _first("model name") or platform.processor() or platform.machine()


@cache
def features() -> frozenset[str]:
    """Instruction sets by Linux's names, such as `avx512_bf16` or `asimd`; none where it doesn't tell."""
    return frozenset((_first("flags") or _first("Features")).split())


def _first(field: str) -> str:
    """The first processor's value of a field of /proc/cpuinfo; empty without one."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""
