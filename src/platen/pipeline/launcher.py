"""Where a stage's function runs: in this process, or in several that torchrun starts on this machine.

The processes run the same function on the same context; the first one's output becomes the artifact. What
it reports comes back line by line, so progress, curves and errors are as with one process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from platen.core import errors
from platen.core.errors import PlatenError, TrainingError
from platen.core.progress import Task
from platen.core.stage import Stage, StageContext, StageResult
from platen.pipeline.rank import MARK, Job

_GRACE_SECONDS = 10.0


def launch(stage: Stage, ctx: StageContext[Any]) -> StageResult:
    """Run a stage, on as many processes as it asks for. Raises as its function."""
    processes = stage.spec.processes(stage.config)
    if processes == 1:
        return stage.spec.call(ctx)
    with tempfile.TemporaryDirectory(prefix="platen-ranks-") as folder:
        job = Path(folder) / "job.json"
        job.write_text(Job.of(stage, ctx).model_dump_json())
        said = Path(folder) / "stderr"
        with said.open("w+b") as log, _started(processes, job, log) as process:
            result = _follow(process, ctx)
        if result is None:
            last = said.read_text("utf-8", "replace").strip().splitlines()[-20:]
            raise TrainingError(
                f"{stage.name} ended on {processes} processes without a result:\n" + "\n".join(last),
                hint="run it on one process (train.processes: 1) to see whether that goes",
            )
        return result


@contextlib.contextmanager
def _started(processes: int, job: Path, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun with its processes, which all end with the context."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command += ["--nproc-per-node", str(processes), "-m", "platen.pipeline.rank", str(job)]
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    environment = {"OMP_NUM_THREADS": threads} | dict(os.environ)
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for way in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, way)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
            return


def _follow(process: subprocess.Popen[bytes], ctx: StageContext[Any]) -> StageResult | None:
    """Pass on what the processes report, to the end; the first one's result, if there is one.

    Raises the first error that one of them reports.
    """
    result: StageResult | None = None
    failed: PlatenError | None = None
    assert process.stdout is not None
    with contextlib.ExitStack() as bars:
        tasks: dict[int, Task] = {}
        for line in process.stdout:
            if not line.startswith(MARK):
                continue
            event = json.loads(line.removeprefix(MARK))
            match event.pop("event"):
                case "result":
                    result = StageResult(**event)
                case "error":
                    failed = failed or _error(event)
                case "task":
                    number = event.pop("number")
                    tasks[number] = bars.enter_context(ctx.progress.task(**event))
                case "update":
                    tasks[event.pop("number")].update(**event)
                case "say":
                    ctx.progress.say(**event)
                case "log":
                    ctx.tracker.log(**event)
                case "params":
                    ctx.tracker.params(**event)
    process.wait()
    if failed is not None:
        raise failed
    return result if process.returncode == 0 else None


def _error(event: Mapping[str, Any]) -> PlatenError:
    """The error of another process, of its own class."""
    kind: type[PlatenError] = getattr(errors, event["type"], PlatenError)
    error = kind.__new__(kind)
    PlatenError.__init__(error, event["message"], hint=event["hint"])
    return error
