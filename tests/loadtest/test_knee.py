"""The search for the knee, against servers whose knee is known."""

from __future__ import annotations

import asyncio

import pytest

from platen.loadtest.knee import Step, find_knee


def searched(
    true_knee: float, start: float, least: float, most: float, *, whole: bool = False
) -> tuple[float | None, list[float]]:
    tried: list[float] = []

    async def attempt(traffic: float) -> Step:
        tried.append(traffic)
        return Step(traffic, 0.95 if traffic <= true_knee else 0.94)

    return asyncio.run(find_knee(attempt, start, least, most, whole=whole)), tried


@pytest.mark.parametrize("true_knee", [0.07, 0.9, 1.0, 5.3, 63.0])
def test_the_knee_is_found_within_a_tenth(true_knee: float) -> None:
    knee, tried = searched(true_knee, 1.0, 0.05, 100.0)
    assert knee is not None
    assert true_knee / 1.1 <= knee <= true_knee
    assert len(tried) <= 16


@pytest.mark.parametrize("true_knee", [1, 2, 3, 7, 11, 48])
def test_the_knee_in_users_is_exact(true_knee: int) -> None:
    assert searched(true_knee, 4, 1, 64, whole=True)[0] == true_knee


def test_a_server_that_bears_everything_is_tried_up_to_the_limit_only() -> None:
    knee, tried = searched(1e9, 3.0, 0.1, 10.0)
    assert knee == 10.0
    assert tried == [3.0, 6.0, 10.0]


def test_a_server_that_bears_nothing_has_no_knee() -> None:
    knee, tried = searched(0.0, 1.0, 0.25, 10.0)
    assert knee is None
    assert tried == [1.0, 0.5, 0.25]
    assert searched(0, 4, 1, 64, whole=True) == (None, [4, 2, 1])


def test_stopped_early_it_gives_what_held_so_far() -> None:
    async def attempt(traffic: float) -> Step | None:
        return Step(traffic, 1.0) if traffic < 3 else None

    assert asyncio.run(find_knee(attempt, 1.0, 0.1, 100.0)) == 2.0
