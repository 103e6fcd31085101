"""Runs a datatrove pipeline once for each file of documents: in local processes, or on Ray."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from datatrove.pipeline.base import PipelineStep

from platen.core.errors import DataError, MissingExtraError

MEMORY_GB = 0.5
"""What Ray reserves for a worker."""


def run_tasks(
    steps: Sequence[PipelineStep], tasks: int, logs: Path, executor: Literal["local", "ray"], workers: int
) -> None:
    """Run `steps` for ranks 0 to `tasks` - 1. Raises DataError when a task fails, or what it raised."""
    workers = min(workers, tasks)
    if executor == "ray":
        _run_on_ray(steps, tasks, logs, workers)
        return
    from datatrove.executor import LocalPipelineExecutor

    if workers > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // workers)
        steps = [partial(_share_cores, threads=threads), *steps]
    LocalPipelineExecutor([*steps], tasks=tasks, workers=workers, logging_dir=str(logs)).run()


def _share_cores(data: None, rank: int, world_size: int, *, threads: int) -> None:
    """A first step, in a worker: models that a block opens there compute on so many threads."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _run_on_ray(steps: Sequence[PipelineStep], tasks: int, logs: Path, workers: int) -> None:
    """On the cluster at RAY_ADDRESS, or on one that is started for this and stopped again."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from datatrove.executor import RayPipelineExecutor
    except ImportError:
        raise MissingExtraError("ray", "data.filters with executor: ray") from None

    started = not ray.is_initialized()
    if started:
        address = os.environ.get("RAY_ADDRESS")
        ray.init(
            address=address,
            num_cpus=None if address else workers,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        run = RayPipelineExecutor(
            [*steps],
            tasks=tasks,
            workers=workers,
            tasks_per_job=-(-tasks // workers),  # a job is a process, and starting one takes seconds
            logging_dir=str(logs),
            mem_per_cpu_gb=MEMORY_GB,
        )
        run.run()
        if missing := run.get_incomplete_ranks():
            raise DataError(
                f"{len(missing)} of {tasks} tasks failed on Ray; the first is task {missing[0]}",
                hint="The same run with executor: local says why. Workers must see the project's folder.",
            )
    finally:
        if started:
            ray.shutdown()
