"""Which variant of a model answers a request: weighted splits, canaries that roll back, and shadows.

A route is all that answers to one name. Its first variant is the stable one. The split is sticky: a user who
names themselves (OpenAI's `safety_identifier` or `user`) keeps being answered by the same variant while the
weights stay as they are, and when they change as few users as possible move.
"""

from __future__ import annotations

import hashlib
import random
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from platen.serve.hub.served_model import AnyModel

STABLE, CANARY, SHADOW = "stable", "canary", "shadow"


@dataclass(frozen=True)
class Outcome:
    """How a response went: whether the model failed, and its seconds a token, if it generated any."""

    failed: bool
    seconds_per_token: float | None = None


@dataclass(frozen=True, eq=False)
class Variant:
    """A model that answers a share of a name's requests, in proportion to `weight`."""

    label: str
    model: AnyModel
    weight: float = 1.0


@dataclass(frozen=True)
class CanaryLimits:
    """When a canary is taken back: after `min_requests` of its answers, of which the last `window` count.

    It goes when more than `max_error_rate` of them failed, or when its median time for a token is more than
    `max_slowdown` times the stable variant's.
    """

    min_requests: int = 20
    window: int = 200
    max_error_rate: float = 0.02
    max_slowdown: float = 1.5


class CanaryWatch:
    """Compares a canary's answers with the stable variant's."""

    def __init__(self, limits: CanaryLimits) -> None:
        self.limits = limits
        self._outcomes = {label: deque[Outcome](maxlen=limits.window) for label in (STABLE, CANARY)}

    def add(self, label: str, outcome: Outcome) -> None:
        if label in self._outcomes:
            self._outcomes[label].append(outcome)

    def complaint(self) -> str | None:
        """Why the canary must go, None while it may stay."""
        canary = self._outcomes[CANARY]
        if len(canary) < self.limits.min_requests:
            return None
        rate = sum(outcome.failed for outcome in canary) / len(canary)
        if rate > self.limits.max_error_rate:
            return f"{rate:.1%} of its last {len(canary)} answers failed"
        new, old = self._seconds_per_token(CANARY), self._seconds_per_token(STABLE)
        if new is not None and old is not None and new > self.limits.max_slowdown * old:
            return f"a token takes it {new * 1000:.3g} ms, the stable model {old * 1000:.3g} ms (medians)"
        return None

    def _seconds_per_token(self, label: str) -> float | None:
        times = [o.seconds_per_token for o in self._outcomes[label] if o.seconds_per_token is not None]
        return statistics.median(times) if len(times) >= self.limits.min_requests else None


@dataclass
class Route:
    """The variants that `name` is routed to, the stable one first; a shadow gets copies of requests."""

    name: str
    variants: Sequence[Variant]
    shadow: Variant | None = None
    watch: CanaryWatch | None = None
    rolled_back: str | None = None
    """Why the last canary was taken back."""
    answered: dict[str, int] = field(default_factory=dict)
    """Answers that have ended, by variant."""

    @classmethod
    def to(cls, model: AnyModel) -> Route:
        """All requests to one model."""
        return cls(model.info.name, [Variant(STABLE, model)])

    @property
    def stable(self) -> Variant:
        return self.variants[0]

    def everything(self) -> list[Variant]:
        """All variants, the shadow too."""
        return [*self.variants, *([self.shadow] if self.shadow else [])]

    def choose(self, user: str | None) -> Variant:
        """The variant for a request; the same for the same user."""
        if len(self.variants) == 1:
            return self.stable
        point = random.random() if user is None else _point(self.name, user)
        total, reached = sum(variant.weight for variant in self.variants), 0.0
        # From the end, so that a canary which grows or goes leaves everyone else where they were.
        for variant in reversed(self.variants):
            reached += variant.weight / total
            if point < reached:
                return variant
        return self.stable

    def count(self, label: str, outcome: Outcome) -> str | None:
        """Note how an answer went; why the canary must go, if it must."""
        self.answered[label] = self.answered.get(label, 0) + 1
        if self.watch is None:
            return None
        self.watch.add(label, outcome)
        return self.watch.complaint()

    def roll_back(self, reason: str) -> None:
        """All of the canary's share goes to the stable variant."""
        self.variants = [variant for variant in self.variants if variant.label != CANARY]
        self.watch, self.rolled_back = None, reason


def _point(name: str, user: str) -> float:
    """A user's position in [0, 1), evenly spread, another one for each name."""
    digest = hashlib.blake2b(f"{name}\0{user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
