"""Threads that end with what they were made for, for the sake of OpenMP's bookkeeping."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def on_passing_thread(work: Callable[[], T]) -> T:
    """Do `work` on a thread of its own and return its result, or raise its error.

    Loading and packing weights uses OpenMP, whose threads stay with the thread that began them. GNU's OpenMP
    counts them all: once the engine's thread has its own too, it finds the cores overbooked and from then on
    lets threads sleep at each of the hundreds of barriers in a step instead of spinning. Half the speed would
    be gone.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()
