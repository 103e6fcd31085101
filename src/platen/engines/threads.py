"""How the threads that compute wait for one another: by spinning, but not for long.

Both functions are for GNU's OpenMP, which PyTorch and llama.cpp compute with on Linux.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def spin_briefly() -> None:
    """Let threads spin for a fraction of a millisecond at a barrier, then sleep, unless the user decided.

    Left to itself OpenMP spins for milliseconds. Where another program wants the cores too, a thread then
    spins away the time that the one it waits for should have had: text came a tenth as fast. To be called
    before PyTorch or llama.cpp is imported; processes started later have it from the environment.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def on_passing_thread(work: Callable[[], T]) -> T:
    """Do `work` on a thread of its own and return its result, or raise its error.

    Loading and packing weights uses OpenMP, whose threads stay with the thread that began them. GNU's OpenMP
    counts them all: once the engine's thread has its own too, it finds the cores overbooked and from then on
    lets threads sleep at each of the hundreds of barriers in a step instead of spinning. Half the speed would
    be gone.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()
