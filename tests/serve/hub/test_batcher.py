"""Adaptive batching, in virtual time: who is computed with whom, when, and what becomes of errors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platen.serve.hub.batcher import Batcher, BatchLimits
from platen.web.errors import ApiError
from tests.serve.virtual_time import run_in_virtual_time

EPSILON = 1e-6


@dataclass
class Item:
    """`size` counts against the limit; a poisonous one breaks the call it is in."""

    size: int = 1
    poison: bool = False
    arrived: float = 0.0


@dataclass
class Call:
    began: float
    ended: float
    items: list[Item]


@dataclass
class Doubler:
    """Doubles sizes, `seconds` a call, and remembers its calls."""

    seconds: float = 1.0
    calls: list[Call] = field(default_factory=list)

    async def __call__(self, items: Sequence[Item]) -> list[int]:
        loop = asyncio.get_running_loop()
        call = Call(loop.time(), float("inf"), list(items))
        self.calls.append(call)
        await asyncio.sleep(self.seconds)
        call.ended = loop.time()
        if any(item.poison for item in items):
            raise ValueError("poisoned")
        return [2 * item.size for item in items]

    def sizes(self) -> list[list[int]]:
        return [[item.size for item in call.items] for call in self.calls]


def batcher(
    run: Doubler, *, max_items: int = 4, max_size: int = 100, max_delay: float = 0.5, max_queue: int = 100
) -> Batcher[Item, int]:
    limits = BatchLimits(max_items, max_size, max_delay, max_queue)
    return Batcher(run, limits, size=lambda item: item.size)


def items(*sizes: int) -> list[Item]:
    return [Item(size) for size in sizes]


arrivals = st.lists(
    st.tuples(
        st.integers(0, 50).map(lambda tenths: tenths / 10),
        st.lists(st.integers(1, 9), min_size=1, max_size=7),
    ),
    min_size=1,
    max_size=10,
)


@given(
    arrivals=arrivals,
    max_items=st.integers(1, 6),
    max_size=st.integers(1, 20),
    max_delay=st.sampled_from([0.0, 0.3, 2.0]),
    seconds=st.sampled_from([0.0, 0.2, 1.5]),
)
def test_bounds_hold_and_every_item_gets_its_own_result(
    arrivals: list[tuple[float, list[int]]], max_items: int, max_size: int, max_delay: float, seconds: float
) -> None:
    run = Doubler(seconds)
    everything: list[Item] = []

    async def request(subject: Batcher[Item, int], at: float, sizes: list[int]) -> list[int]:
        await asyncio.sleep(at)
        own = [Item(size, arrived=asyncio.get_running_loop().time()) for size in sizes]
        everything.extend(own)
        return await subject.submit(own)

    async def play() -> list[list[int]]:
        subject = batcher(run, max_items=max_items, max_size=max_size, max_delay=max_delay, max_queue=1000)
        answers = await asyncio.gather(*(request(subject, at, sizes) for at, sizes in arrivals))
        await subject.close()
        assert subject.stats.waiting == 0
        assert (subject.stats.batches, subject.stats.items) == (len(run.calls), len(everything))
        return answers

    answers = run_in_virtual_time(play())
    assert answers == [[2 * size for size in sizes] for _, sizes in arrivals]
    free_at = 0.0
    computed: set[int] = set()
    for call in run.calls:
        assert 1 <= len(call.items) <= max_items
        assert sum(item.size for item in call.items) <= max_size or len(call.items) == 1
        assert call.began >= free_at - EPSILON
        # Of all that waits when a call begins, the oldest has not waited too long: only for the call before.
        waiting = [i for i in everything if id(i) not in computed and i.arrived <= call.began + EPSILON]
        due = min(item.arrived for item in waiting) + max_delay
        assert call.began <= max(free_at, due) + EPSILON
        # And it does not begin early, unless it is full.
        full = len(waiting) >= max_items or sum(item.size for item in waiting) >= max_size
        assert full or call.began >= due - EPSILON
        computed |= {id(item) for item in call.items}
        free_at = call.ended
    assert len(computed) == len(everything)


def test_requests_that_come_within_the_delay_share_a_call() -> None:
    run = Doubler()

    async def play() -> None:
        subject = batcher(run, max_delay=0.5)
        first = asyncio.create_task(subject.submit(items(1)))
        await asyncio.sleep(0.4)
        assert await subject.submit(items(2, 3)) == [4, 6]
        assert await first == [2]
        await subject.close()

    run_in_virtual_time(play())
    assert run.sizes() == [[1, 2, 3]]
    assert run.calls[0].began == pytest.approx(0.5)


def test_what_arrives_during_a_call_makes_up_the_next() -> None:
    run = Doubler(seconds=10)

    async def play() -> None:
        subject = batcher(run, max_delay=0.0)
        lone = asyncio.create_task(subject.submit(items(1)))
        await asyncio.sleep(1)
        await asyncio.gather(lone, *(subject.submit(items(size)) for size in (2, 3, 4)))
        await subject.close()

    run_in_virtual_time(play())
    assert run.sizes() == [[1], [2, 3, 4]]


def test_a_long_list_does_not_hold_up_a_short_one() -> None:
    run = Doubler()
    order: list[str] = []

    async def request(subject: Batcher[Item, int], name: str, count: int) -> None:
        await subject.submit(items(*[1] * count))
        order.append(name)

    async def play() -> None:
        subject = batcher(run)
        await asyncio.gather(request(subject, "long", 40), request(subject, "short", 2))
        await subject.close()

    run_in_virtual_time(play())
    assert order == ["short", "long"]
    assert [len(call.items) for call in run.calls] == [4] * 10 + [2]


def test_an_error_hits_only_the_request_that_caused_it() -> None:
    run = Doubler()

    async def play() -> list[list[int] | BaseException]:
        subject = batcher(run, max_items=8)
        requests = [items(1, 2), [Item(3, poison=True)], items(4)]
        answers = await asyncio.gather(*map(subject.submit, requests), return_exceptions=True)
        assert await subject.submit(items(5)) == [10]
        await subject.close()
        return answers

    good, bad, other = run_in_virtual_time(play())
    assert (good, other) == ([2, 4], [8])
    assert isinstance(bad, ValueError)


def test_a_batch_function_that_loses_results_is_an_error_and_no_hang() -> None:
    async def play() -> None:
        async def lossy(items: Sequence[int]) -> list[int]:
            return []

        subject = Batcher(lossy, BatchLimits())
        with pytest.raises(RuntimeError, match="0 results for 1 items"):
            await subject.submit([1])
        await subject.close()

    run_in_virtual_time(play())


def test_a_full_queue_refuses_with_the_time_to_come_again() -> None:
    run = Doubler(seconds=8)

    async def play() -> ApiError:
        subject = batcher(run, max_items=2, max_queue=6)
        await subject.submit(items(1, 1))  # four seconds an item
        waiting = []
        for _ in range(4):
            waiting.append(asyncio.create_task(subject.submit(items(1, 1))))
            await asyncio.sleep(1)  # in the end two are being computed and six wait
        with pytest.raises(ApiError) as refused:
            await subject.submit(items(1))
        with pytest.raises(ApiError, match="7 items in one request; the server takes 6"):
            await subject.submit(items(*[1] * 7))
        await asyncio.gather(*waiting)
        assert await subject.submit(items(1)) == [2]
        await subject.close()
        return refused.value

    refused = run_in_virtual_time(play())
    assert (refused.status, refused.code) == (429, "overloaded")
    # A fifth of each call's seconds an item enters the running mean: 0.8 after the first.
    assert refused.retry_after == pytest.approx(6 * 0.8)


def test_a_cancelled_request_leaves_the_queue() -> None:
    run = Doubler(seconds=5)

    async def play() -> None:
        subject = batcher(run, max_items=2)
        first = asyncio.create_task(subject.submit(items(1, 1)))
        await asyncio.sleep(1)
        gone = asyncio.create_task(subject.submit(items(7, 7, 7)))
        stays = asyncio.create_task(subject.submit(items(2)))
        await asyncio.sleep(1)
        gone.cancel()
        assert await first == [2, 2]
        assert await stays == [4]
        assert gone.cancelled()
        assert subject.stats.waiting == 0
        await subject.close()

    run_in_virtual_time(play())
    assert run.sizes() == [[1, 1], [2]]


def test_closing_ends_what_waits_and_what_runs() -> None:
    run = Doubler(seconds=100)

    async def play() -> None:
        subject = batcher(run, max_items=1)
        requests = [asyncio.create_task(subject.submit(items(1))) for _ in range(3)]
        await asyncio.sleep(1)
        await subject.close()
        for answer in await asyncio.gather(*requests, return_exceptions=True):
            assert isinstance(answer, ApiError)
            assert answer.status == 503
        with pytest.raises(ApiError, match="shutting down"):
            await subject.submit(items(1))
        assert asyncio.get_running_loop().time() == pytest.approx(1)

    run_in_virtual_time(play())
    assert len(run.calls) == 1
