"""Bounds on waits: each ends its own wait, at its own moment, whichever timer rings."""

from __future__ import annotations

import asyncio

import pytest

from platen.web.deadlines import Deadlines
from tests.serve.virtual_time import run_in_virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


def test_the_inner_of_two_bounds_is_reached_first_and_the_outer_still_holds() -> None:
    async def work() -> list[float]:
        deadlines, reached = Deadlines(), []
        try:
            with deadlines.within(10):
                while True:
                    try:
                        with deadlines.within(3):
                            await asyncio.sleep(100)
                    except TimeoutError:
                        reached.append(now())
        except TimeoutError:
            reached.append(now())
        deadlines.close()
        return reached

    assert run_in_virtual_time(work()) == pytest.approx([3, 6, 9, 10], abs=0.01)


def test_waits_that_end_in_time_end_nothing() -> None:
    async def work() -> float:
        deadlines = Deadlines()
        for _ in range(5):
            with deadlines.within(3):
                await asyncio.sleep(2)
        await asyncio.sleep(50)
        deadlines.close()
        return now()

    assert run_in_virtual_time(work()) == pytest.approx(60)


def test_tasks_side_by_side_are_bounded_each_for_itself() -> None:
    async def wait(deadlines: Deadlines, bound: float) -> float:
        try:
            with deadlines.within(bound):
                await asyncio.sleep(4)
        except TimeoutError:
            pass
        return now()

    async def work() -> list[float]:
        deadlines = Deadlines()
        return await asyncio.gather(*(wait(deadlines, bound) for bound in (9, 1, 3)))

    assert run_in_virtual_time(work()) == pytest.approx([4, 1, 3], abs=0.01)


def test_a_bound_knows_whether_it_was_reached() -> None:
    async def work() -> tuple[bool, bool]:
        deadlines = Deadlines()
        outer, inner = deadlines.within(1), deadlines.within(2)
        with pytest.raises(TimeoutError), outer, inner:
            await asyncio.sleep(5)
        return outer.reached, inner.reached

    assert run_in_virtual_time(work()) == (True, False)


def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def bounded(deadlines: Deadlines) -> None:
        with deadlines.within(1):
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                me = asyncio.current_task()
                assert me is not None
                me.cancel()  # as if by another, at the very same moment
                raise

    async def work() -> bool:
        task = asyncio.ensure_future(bounded(Deadlines()))
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert run_in_virtual_time(work())


def test_an_error_of_the_work_itself_is_left_alone() -> None:
    async def work() -> None:
        with Deadlines().within(1):
            raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        run_in_virtual_time(work())
