"""Learning rates and limits by value."""

from __future__ import annotations

import pytest

from platen.train.config import TrainConfig
from platen.train.schedule import Used, progress, rate_factor, reached


def rate(config: TrainConfig, step: int) -> float:
    """The learning rate of the step that brings the run to `step` steps."""
    return config.learning_rate * rate_factor(config, progress(config, Used(step, 0, 0.0)))


def test_cosine_gives_the_books_first_rate() -> None:
    config = TrainConfig(steps=1000, learning_rate=5e-4, min_learning_rate_ratio=1e-5 / 5e-4, warmup=0.0)
    assert rate(config, 1) == pytest.approx(0.0004999987909744553, abs=1e-18)
    assert rate(config, 500) == pytest.approx((5e-4 + 1e-5) / 2)
    assert rate(config, 1000) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # Steps 5, 10, 55, 100 of 100 with 10% warm-up; peak 1, floor 0.2.
        ("cosine", [0.5, 1.0, 0.6, 0.2]),
        ("linear", [0.5, 1.0, 0.6, 0.2]),
        ("wsd", [0.5, 1.0, 1.0, 0.2]),
        ("constant", [0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules_by_hand(schedule: str, expected: list[float]) -> None:
    config = TrainConfig.model_validate(
        {
            "steps": 100,
            "learning_rate": 1.0,
            "min_learning_rate_ratio": 0.2,
            "warmup": 0.1,
            "decay": 0.4,
            "schedule": schedule,
        }
    )
    assert [rate(config, step) for step in (5, 10, 55, 100)] == pytest.approx(expected)


def test_cosine_and_linear_differ_a_quarter_down() -> None:
    # cos(pi / 4) = 0.70711: half of 1.70711 against three quarters.
    base = {"steps": 100, "learning_rate": 1.0, "min_learning_rate_ratio": 0.0, "warmup": 0.0}
    cosine = TrainConfig.model_validate(base | {"schedule": "cosine"})
    linear = TrainConfig.model_validate(base | {"schedule": "linear"})
    assert rate(cosine, 25) == pytest.approx(0.853553, abs=1e-6)
    assert rate(linear, 25) == pytest.approx(0.75)


def test_wsd_is_half_way_down_in_the_middle_of_its_decay() -> None:
    config = TrainConfig(steps=100, learning_rate=1.0, min_learning_rate_ratio=0.0, schedule="wsd", decay=0.4)
    assert rate(config, 60) == 1.0
    assert rate(config, 80) == pytest.approx(0.5)


def test_progress_is_the_largest_share() -> None:
    config = TrainConfig(steps=100, tokens=1000, minutes=2)
    assert progress(config, Used(10, 50, 6.0)) == pytest.approx(0.10)
    assert progress(config, Used(10, 300, 6.0)) == pytest.approx(0.30)
    assert progress(config, Used(10, 300, 60.0)) == pytest.approx(0.50)
    assert progress(config, Used(10, 300, 600.0)) == 1.0


@pytest.mark.parametrize(
    ("used", "evaluations", "reason"),
    [
        (Used(99, 999, 119.9), 2, None),
        (Used(100, 0, 0.0), 0, "steps"),
        (Used(0, 1000, 0.0), 0, "tokens"),
        (Used(0, 0, 120.0), 0, "minutes"),
        (Used(0, 0, 0.0), 3, "patience"),
    ],
)
def test_stops_at_the_first_limit(used: Used, evaluations: int, reason: str | None) -> None:
    assert reached(TrainConfig(steps=100, tokens=1000, minutes=2, patience=3), used, evaluations) == reason


def test_a_share_of_an_unbounded_run_is_refused() -> None:
    with pytest.raises(ValueError, match="patience alone"):
        TrainConfig(patience=3)
    assert TrainConfig(patience=3, schedule="constant", warmup=0).steps is None
