"""One load test from its options to its report: a single run, or a sweep that looks for the knee."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from platen.loadtest.knee import Step, find_knee
from platen.loadtest.load import Load, Run, run_load
from platen.loadtest.load_prompts import Prompts, Synthetic
from platen.loadtest.load_report import Measured, Report
from platen.loadtest.records import Slo, summarize
from platen.loadtest.target import Target, calibrate, open_target

Watch = Callable[[Run], None]
_FEWEST_REQUESTS = 4
"""That a step of a sweep by rate should send; less traffic than gives so many is not tried."""


@dataclass(frozen=True)
class Plan:
    """What to do. With `sweep` the load is where the search for the knee begins, and `most` where it ends;
    `slo` must then be given.
    """

    target: Target
    prompts: Prompts
    load: Load
    prompts_name: str
    slo: Slo | None = None
    sweep: bool = False
    most: float = 0.0


async def run_plan(
    plan: Plan,
    *,
    watch: Watch | None = None,
    done: Callable[[Measured], None] | None = None,
) -> Report:
    """Carry out `plan`. Cancelled (Ctrl-C), it reports what was measured until then.

    `watch` is called now and then during each run, `done` after it. Raises TargetError when the server
    can't be tested at all.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    measured: list[Measured] = []
    async with plan.target.client() as client:
        target = await open_target(client, plan.target)
        prompts = plan.prompts
        if isinstance(prompts, Synthetic):
            prompts = await calibrate(client, target, prompts)

        async def once(load: Load) -> Measured:
            run = await run_load(client, target, prompts, load, watch)
            one = Measured(run, summarize(run.records, plan.slo))
            measured.append(one)
            if done:
                done(one)
            return one

        knee = await _sweep(plan, once) if plan.sweep else None
        if not plan.sweep:
            await once(plan.load)
    return Report(
        url=target.base,
        model=target.model or "",
        api=target.api,
        prompts=plan.prompts_name,
        when=when,
        slo=plan.slo,
        measured=tuple(measured),
        swept=plan.sweep,
        knee=knee,
    )


async def _sweep(plan: Plan, once: Callable[[Load], Awaitable[Measured]]) -> float | None:
    start, steps = plan.load, 0

    async def attempt(traffic: float) -> Step | None:
        nonlocal steps
        steps += 1  # each step asks other things, or a prefix cache would answer
        load = replace(start, seed=start.seed + steps)
        load = replace(load, rate=traffic) if start.rate is not None else replace(load, users=int(traffic))
        one = await once(load)
        share = one.summary.slo_share
        return None if one.run.interrupted or share is None else Step(traffic, share)

    if start.rate is not None:
        least = min(start.rate, _FEWEST_REQUESTS / start.seconds)
        return await find_knee(attempt, start.rate, least, plan.most)
    return await find_knee(attempt, start.users or 1, 1, int(plan.most), whole=True)


def run_blocking(
    plan: Plan, *, watch: Watch | None = None, done: Callable[[Measured], None] | None = None
) -> Report:
    """`run_plan` in an event loop of its own; Ctrl-C ends the test, not the program."""
    return asyncio.run(run_plan(plan, watch=watch, done=done))
