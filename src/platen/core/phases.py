"""Where the time of something long goes: named spans, each added to what it already took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Phase = Callable[[str], AbstractContextManager[None]]
"""Called with a span's name, it times the `with` block."""


def no_phase(name: str) -> AbstractContextManager[None]:
    """For callers who don't ask where the time goes."""
    return nullcontext()


class Phases:
    """Seconds by name, in the order in which the names first came."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
