"""What the libraries that compute have to be told: how threads wait for one another, how much is kept."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""
_MADV_DONTNEED = 4
"""Of Linux's mman.h."""


def prepare_process() -> None:
    """Set what PyTorch's and llama.cpp's libraries read from the environment, unless the user did.

    To be called before either is imported; processes started later inherit it.

    - Threads spin for about a millisecond at a barrier, then sleep. To sleep sooner costs a fifth of the
      speed, in waking up. Left to itself OpenMP spins for many milliseconds: where another program wants the
      cores too, a thread then spins away the time of the one it waits for, and decode is a tenth as
      fast.
    - oneDNN keeps 256 of the kernels that it makes for each number of tokens it meets, not 1,024: prompts of
      ever new lengths would otherwise fill hundreds of megabytes with them.

    And have glibc's malloc keep two heaps. It makes more for threads that come and go, as those of models
    that are loaded and unloaded do, and what is left in each would add a tenth to a busy server's memory.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    limit = getattr(ctypes.CDLL(None), "mallopt", None)
    if limit is not None:
        limit(_M_ARENA_MAX, 2)


def give_back_memory() -> None:
    """Let the system have the memory of what was freed; for a moment after something large.

    glibc keeps it, for ever where anything small lies behind it: models that come and go would each leave a
    few dozen megabytes. Other C libraries have no such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def drop_mapped_pages(file: Path) -> None:
    """Let the system have the memory of a mapped file's pages; those that are used again are mapped again.

    For weights that a library maps and copies. Does nothing where there is no /proc.
    """
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return
    for line in maps.read_text().splitlines():
        if line.endswith(f" {file.resolve()}"):
            first, end = (int(address, 16) for address in line.split(" ", 1)[0].split("-"))
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), _MADV_DONTNEED)


def on_passing_thread(work: Callable[[], T]) -> T:
    """Do `work` on a thread of its own and return its result, or raise its error.

    Loading and packing weights uses OpenMP, whose threads stay with the thread that began them. GNU's OpenMP
    counts them all: once the engine's thread has its own too, it finds the cores overbooked and from then on
    lets threads sleep at each of the hundreds of barriers in a step instead of spinning. Half the speed would
    be gone.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()
