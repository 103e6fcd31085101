"""Finds a server's knee: the most traffic at which it still keeps its objectives.

The knee is the highest rate (or number of users) tried at which at least 95% of all requests, refused and
failed ones among them, met every objective. Traffic is doubled until that fails, halved if it fails at once,
and the gap is then narrowed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

SHARE = 0.95
"""Of requests within their objectives, at the knee and below."""
_MOST_STEPS = 16
_NARROW_ENOUGH = 1.1


@dataclass(frozen=True)
class Step:
    """Traffic that was tried, and the share of requests that met their objectives."""

    traffic: float
    share: float

    @property
    def good(self) -> bool:
        return self.share >= SHARE


Try = Callable[[float], Awaitable[Step | None]]
"""Runs that much traffic; None when the test was stopped."""


async def find_knee(
    attempt: Try, start: float, least: float, most: float, *, whole: bool = False
) -> float | None:
    """The knee from `least` to `most`, begun at `start`; None when even the least traffic is too much.

    `whole` is for users: only whole numbers.
    """
    good, bad = 0.0, math.inf
    traffic = min(start, most)
    for _ in range(_MOST_STEPS):
        step = await attempt(traffic)
        if step is None:
            break
        if step.good:
            good = max(good, traffic)
        else:
            bad = min(bad, traffic)
        following = _next(good, bad, least, most, whole)
        if following is None:
            break
        traffic = following
    return good or None


def _next(good: float, bad: float, least: float, most: float, whole: bool) -> float | None:
    """The traffic to try after `good` held and `bad` did not; None when that is close enough."""
    if bad == math.inf:
        return min(2 * good, most) if good < most else None
    if good == 0:
        return max(least, bad // 2 if whole else bad / 2) if bad > least else None
    if whole:
        middle = (good + bad) // 2
        return middle if good < middle else None
    return math.sqrt(good * bad) if bad / good > _NARROW_ENOUGH else None
