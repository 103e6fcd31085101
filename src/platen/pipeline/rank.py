"""One of the processes that a stage runs on: the program that torchrun starts as each of them.

    python -m torch.distributed.run --nproc-per-node 2 -m platen.pipeline.rank JOB

JOB is the file that `launcher` writes. What happens is told on standard output, a line an event.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from platen.core.artifacts import Artifact, Manifest
from platen.core.errors import PlatenError
from platen.core.progress import NullTracker, Progress, SilentProgress, Task, Tracker
from platen.core.stage import Stage, StageContext, StageSpec
from platen.project.stages import STAGES, TRAINING

MARK = b"platen-rank "
"""What a line with an event begins with; other lines are what libraries print."""
_SECONDS_BETWEEN_UPDATES = 0.1


class _Input(BaseModel):
    path: Path
    manifest: Manifest


class Job(BaseModel):
    """A stage and its context, as they go from one process to others. A spec is known by its catalogue."""

    training: bool
    spec: str
    name: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, _Input]
    out: Path
    project_dir: Path
    seed: int

    @classmethod
    def of(cls, stage: Stage, ctx: StageContext[Any]) -> Job:
        kind = next((name for name, step in TRAINING.all().items() if step.stage is stage.spec), None)
        inputs = {role: _Input(path=a.path, manifest=a.manifest) for role, a in ctx.inputs.items()}
        return cls(
            training=kind is not None,
            spec=kind or stage.spec.name,
            name=ctx.name,
            fingerprint=ctx.fingerprint,
            config=ctx.config.model_dump(mode="json"),
            inputs=inputs,
            out=ctx.out.resolve(),
            project_dir=ctx.project_dir.resolve(),
            seed=ctx.seed,
        )

    def found(self) -> StageSpec[Any]:
        """Its spec in this process."""
        return TRAINING.all()[self.spec].stage if self.training else STAGES.all()[self.spec]

    def context(self, spec: StageSpec[Any], progress: Progress, tracker: Tracker) -> StageContext[Any]:
        return StageContext(
            name=self.name,
            fingerprint=self.fingerprint,
            config=spec.config.model_validate(self.config),
            inputs={role: Artifact(one.path, one.manifest) for role, one in self.inputs.items()},
            out=self.out,
            project_dir=self.project_dir,
            seed=self.seed,
            progress=progress,
            tracker=tracker,
        )


class _Told:
    """Progress and curves as events."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    @contextmanager
    def task(self, description: str, *, total: float | None = None, unit: str = "") -> Iterator[Task]:
        number = next(self._numbers)
        _tell("task", number=number, description=description, total=total, unit=unit)
        yield _ToldTask(number)

    def say(self, message: str) -> None:
        _tell("say", message=message)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        _tell("log", metrics=dict(metrics), step=step)

    def params(self, params: Mapping[str, object]) -> None:
        _tell("params", params=dict(params))


class _ToldTask:
    def __init__(self, number: int) -> None:
        self._number = number
        self._told = 0.0

    def update(self, completed: float, *, total: float | None = None, note: str | None = None) -> None:
        if time.monotonic() - self._told >= _SECONDS_BETWEEN_UPDATES:
            self._told = time.monotonic()
            _tell("update", number=self._number, completed=completed, total=total, note=note)


def _tell(event: str, **what: Any) -> None:
    sys.stdout.buffer.write(MARK + json.dumps({"event": event, **what}).encode() + b"\n")
    sys.stdout.buffer.flush()


def main(job_file: Path) -> int:
    """Run the job as the process that the environment says this is."""
    job = Job.model_validate_json(job_file.read_text())
    first = os.environ.get("RANK", "0") == "0"
    told = _Told()
    spec = job.found()
    try:
        result = spec.call(
            job.context(spec, told if first else SilentProgress(), told if first else NullTracker())
        )
    except PlatenError as error:
        _tell("error", type=type(error).__name__, message=error.message, hint=error.hint)
        return error.exit_code
    if first:
        _tell("result", metrics=dict(result.metrics), notes=dict(result.notes))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
