"""Compiles C++ for this very processor at first use, in seconds, and keeps it in the user's cache folder."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import platform
import subprocess
import tempfile
from pathlib import Path

from platen.core.cpu import features, find_compiler, processor
from platen.core.files import write_atomic
from platen.models.store import cache_folder

log = logging.getLogger(__name__)

_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
_X86_FLAGS = ("-mprefer-vector-width=512",)
"""Where there are no such registers it takes two."""
_COMPILE_SECONDS = 120


def load_native(source: Path, *flags: str, mode: int = ctypes.DEFAULT_MODE) -> ctypes.CDLL | None:
    """The library of a source file; None without a compiler, or with one that fails, which is logged.

    `mode` is dlopen's: with `ctypes.RTLD_GLOBAL` libraries that are loaded later find its functions first.
    """
    compiler = find_compiler()
    if compiler is None:
        log.info("no C++ compiler: %s is not used, which is slower", source.name)
        return None
    flags = (*_FLAGS, *flags, *(_X86_FLAGS if platform.machine() == "x86_64" else ()))
    try:
        kept = _place(source, compiler, flags)
        if kept.exists():
            return ctypes.CDLL(str(kept), mode)
        with tempfile.TemporaryDirectory(prefix="platen-native-") as scratch:
            made = Path(scratch) / kept.name
            _run(compiler, *flags, str(source), "-o", str(made))
            with contextlib.suppress(OSError):  # nowhere to keep it: compiled anew next time
                write_atomic(kept, made.read_bytes())
            return ctypes.CDLL(str(made), mode)
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        log.warning("%s is not used, %s failed: %s", source.name, compiler, said)
        return None


def _place(source: Path, compiler: str, flags: tuple[str, ...]) -> Path:
    """Where the library is kept that this compiler makes of this source on this processor."""
    version = _run(compiler, "--version")
    name = "\n".join((source.read_text(), *flags, version, processor(), *sorted(features())))
    return cache_folder() / "kernels" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.so"


def _run(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=_COMPILE_SECONDS
    ).stdout
