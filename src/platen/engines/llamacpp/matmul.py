"""Puts `matmul.cpp` before llama.cpp's own matmuls, where that is known to fit and to be faster.

It takes the place of one function of llama.cpp's, by whose name dynamic linking finds ours first, and this
function's arguments are no public interface: only the version that it was written for is touched.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from platen.core.cpu import features
from platen.engines.native import load_native

log = logging.getLogger(__name__)

WRITTEN_FOR = "0.3.36"
"""The version of llama-cpp-python."""
_SOURCE = Path(__file__).with_suffix(".cpp")


@cache
def load_matmul() -> bool:
    """Use our matmuls in this process; returns whether they are used. Called before llama.cpp is loaded.

    They are for processors with AVX-512 VNNI, with or without AMX: llama.cpp's own kernels for AMX want all
    weights copied into another layout, which takes longer than everything else at the start and as much
    memory again. Built with GCC 12 those kernels also end the process with an illegal instruction.
    """
    if "avx512_vnni" not in features():
        return False
    if (
        "llama_cpp" in sys.modules or "LLAMA_CPP_LIB_PATH" in os.environ
    ):  # loaded already, or not the package's
        return False
    try:
        version = metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return False
    if version != WRITTEN_FOR:
        log.info("llama-cpp-python is %s, not %s: %s is not used", version, WRITTEN_FOR, _SOURCE.name)
        return False
    package = importlib.util.find_spec("llama_cpp")
    folder = Path(package.origin).parent / "lib" if package and package.origin else Path()
    own = folder / "libggml-cpu.so"
    if not own.exists() or (library := load_native(_SOURCE, mode=ctypes.RTLD_GLOBAL)) is None:
        return False
    own_matmul = getattr(ctypes.CDLL(str(own)), "llamafile_sgemm", None)
    library.set_own_matmul(own_matmul)
    return own_matmul is not None  # llama.cpp can be built without it
