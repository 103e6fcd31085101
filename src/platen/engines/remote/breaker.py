"""A circuit breaker: leaves a service alone that has failed several times in a row.

Closed, all requests pass. After `failures` in a row it is open and none passes for `seconds`. Then it is half
open: one request is the trial, whose success closes it and whose failure opens it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal


class Breaker:
    """Ask `admits` before each request, and tell how it ended: exactly one of the three."""

    def __init__(self, failures: int, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._seconds, self._clock = failures, seconds, clock
        self._in_a_row = 0
        self._open_until: float | None = None
        self._on_trial = False

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half-open"

    @property
    def seconds_left(self) -> float:
        """Until the next request may pass; 0 when one may now or the trial is on its way."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock())

    def admits(self) -> bool:
        """Whether a request may pass. When half open it is the trial; until that has ended, no other may."""
        if self._open_until is None:
            return True
        if self._on_trial or self._clock() < self._open_until:
            return False
        self._on_trial = True
        return True

    def succeeded(self) -> None:
        self._in_a_row, self._open_until, self._on_trial = 0, None, False

    def failed(self) -> None:
        self._in_a_row += 1
        if self._on_trial or self._in_a_row >= self._limit:
            self._open_until = self._clock() + self._seconds
        self._on_trial = False

    def abandoned(self) -> None:
        """The request ended without telling anything of the service: whoever asked has gone away."""
        self._on_trial = False
