"""What this machine's processor is called and can do, as the system tells, and what compiles for it."""

from __future__ import annotations

import os
import platform
import shutil
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


def find_compiler() -> str | None:
    """The C++ compiler: `$CXX`, or one of the usual names. None on systems whose OpenMP is not torch's."""
    if platform.system() != "Linux":
        return None
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((found for name in names if (found := shutil.which(name))), None)


def _first(field: str) -> str:
    """The first processor's value of a field of /proc/cpuinfo; empty without one."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""
