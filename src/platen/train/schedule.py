"""The learning rate over a run, and when a run ends.

Both work on progress: the share of the run that is used up, which is the largest of the shares of its
steps, its tokens and its minutes. So one schedule serves every kind of limit, and a resumed run continues
where it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from platen.train.config import TrainConfig

StopReason = Literal["steps", "tokens", "minutes", "patience"]


@dataclass(frozen=True)
class Used:
    """What a run has used up so far; `seconds` of wall-clock time over all its resumptions."""

    steps: int
    tokens: int
    seconds: float


def progress(config: TrainConfig, used: Used) -> float:
    """The share of the run that is used up, 0 to 1; always 0 without a limit."""
    return min(1.0, max((share for share, _ in _shares(config, used)), default=0.0))


def reached(config: TrainConfig, used: Used, evaluations_without_gain: int) -> StopReason | None:
    """The limit that ends the run now, or None."""
    for share, reason in _shares(config, used):
        if share >= 1:
            return reason
    if config.patience is not None and evaluations_without_gain >= config.patience:
        return "patience"
    return None


def _shares(config: TrainConfig, used: Used) -> list[tuple[float, StopReason]]:
    shares: list[tuple[float, StopReason]] = []
    if config.steps is not None:
        shares.append((used.steps / config.steps, "steps"))
    if config.tokens is not None:
        shares.append((used.tokens / config.tokens, "tokens"))
    if config.minutes is not None:
        shares.append((used.seconds / (config.minutes * 60), "minutes"))
    return shares


def rate_factor(config: TrainConfig, at: float) -> float:
    """What the peak learning rate is multiplied by at progress `at`.

    `cosine` follows SGDR (Loshchilov and Hutter, 2017) without restarts; `wsd` is warm-up, stable, decay
    (Hu et al., MiniCPM, 2024) with a straight decay. The floor is `min_learning_rate_ratio`.
    """
    floor = config.min_learning_rate_ratio
    if at < config.warmup:
        return at / config.warmup
    after = (at - config.warmup) / (1 - config.warmup)
    if config.schedule == "cosine":
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * after))
    if config.schedule == "linear":
        return floor + (1 - floor) * (1 - after)
    if config.schedule == "wsd" and at > 1 - config.decay:
        return floor + (1 - floor) * (1 - at) / config.decay
    return 1.0
