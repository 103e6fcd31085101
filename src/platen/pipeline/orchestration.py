"""The asset graph in Dagster's terms: assets, the gate as a blocking check, retries, a schedule.

The same assets run in this process (`materialize`) and in Dagster's own page or deployment
(`pipeline_definitions`, which `platen ui` loads through `definitions`).
"""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platen.core.artifacts import Manifest
from platen.core.errors import MissingExtraError, PlatenError
from platen.pipeline.graph import called
from platen.pipeline.planner import PlannedStage

if TYPE_CHECKING:
    import dagster as dg

    from platen.pipeline.runner import Execution, Pipeline

os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
# Without the last entry Dagster would send what a stage prints through processes of its own, terminal or not.
_SETTINGS = """\
telemetry:
  enabled: false
nux:
  enabled: false
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""


def import_dagster() -> Any:
    try:
        import dagster
    except ModuleNotFoundError as error:
        raise MissingExtraError("train", "running a pipeline") from error
    return dagster


def home(pipeline: Pipeline) -> Path:
    """Dagster's directory for this project, with its settings written."""
    directory = pipeline.folder / "dagster"
    directory.mkdir(parents=True, exist_ok=True)
    settings = directory / "dagster.yaml"
    if not settings.is_file() or settings.read_text() != _SETTINGS:
        settings.write_text(_SETTINGS)
    return directory


def asset_key(name: str) -> list[str]:
    """`train@rope` is the asset `train/rope`, and so is `train.rope`."""
    return re.split("[@.]", name)


def materialize(execution: Execution) -> None:
    """Run the execution's stages in this process, in order, and record them in the project's history."""
    dagster = import_dagster()
    assets = [build_asset(execution, entry) for entry in execution.planned]
    with dagster.DagsterInstance.from_config(str(home(execution.pipeline))) as instance:
        dagster.materialize(
            assets,
            instance=instance,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    if execution.interrupted:
        raise KeyboardInterrupt


def build_asset(execution: Execution, entry: PlannedStage, *, lock_each: bool = False) -> dg.AssetsDefinition:
    """One stage as an asset. A PlatenError is final; anything else is tried again where asked for.

    `lock_each` takes the project's lock for this stage alone, for runs that Dagster itself starts.
    """
    dagster = import_dagster()
    pipeline, stage = execution.pipeline, entry.stage
    key = dagster.AssetKey(asset_key(stage.name))
    gated = bool(pipeline.rules_on(stage))
    retries = pipeline.project.retries
    retry = next((retries[name] for name in called(stage.name) if name in retries), None)

    @dagster.asset(
        key=key,
        deps=[dagster.AssetKey(asset_key(upstream)) for upstream in stage.inputs.values()],
        kinds={stage.kind},
        code_version=str(stage.spec.version),
        check_specs=[dagster.AssetCheckSpec("gate", asset=key, blocking=True)] if gated else None,
        retry_policy=retry
        and dagster.RetryPolicy(
            max_retries=retry.max_retries,
            delay=retry.delay_seconds,
            backoff=dagster.Backoff.EXPONENTIAL,
            jitter=dagster.Jitter.PLUS_MINUS,
        ),
    )
    def asset():  # type: ignore[no-untyped-def]  # Dagster reads annotations; this has none to read
        try:
            with pipeline.lock() if lock_each else nullcontext():
                artifact, made = execution.make(entry)
            outcome = execution.check_gate(entry, artifact) if gated else None
        except (KeyboardInterrupt, dagster.DagsterExecutionInterruptedError):
            execution.interrupted = True  # Dagster takes it for a failed step
            raise
        except PlatenError as error:
            execution.report.errors[stage.name] = error
            raise dagster.Failure(description=str(error), allow_retries=False) from error
        except Exception as error:
            execution.report.errors[stage.name] = error
            if retry is not None and dagster.AssetExecutionContext.get().retry_number < retry.max_retries:
                execution.observer.stage_retried(entry, error)
            raise
        execution.report.errors.pop(stage.name, None)  # an earlier try's
        return dagster.MaterializeResult(
            metadata=_metadata(artifact.manifest, artifact.path, made),
            data_version=dagster.DataVersion(entry.fingerprint),
            check_results=[
                dagster.AssetCheckResult(
                    check_name="gate", passed=outcome.passed, metadata={"rules": "\n".join(outcome.lines)}
                )
            ]
            if outcome
            else None,
        )

    return asset  # type: ignore[no-any-return]


def _metadata(manifest: Manifest, path: Path, made: bool) -> dict[str, Any]:
    return {
        "path": str(path),
        "fingerprint": manifest.fingerprint,
        "bytes": manifest.size,
        "made_by_this_run": made,
        **manifest.metrics,
    }


def pipeline_definitions(pipeline: Pipeline) -> dg.Definitions:
    """Assets, one job over all of them and, if the project asks, its schedule (UTC)."""
    from platen.pipeline.runner import Execution, RunReport, SilentObserver

    dagster = import_dagster()
    execution = Execution(pipeline, pipeline.plan(), SilentObserver(), RunReport())
    job = dagster.define_asset_job("all", executor_def=dagster.in_process_executor)
    schedule = pipeline.project.schedule
    return dagster.Definitions(  # type: ignore[no-any-return]
        assets=[build_asset(execution, entry, lock_each=True) for entry in execution.planned],
        jobs=[job],
        schedules=[] if schedule is None else [_schedule(job, schedule)],
        executor=dagster.in_process_executor,
    )


def _schedule(job: Any, cron: str) -> Any:
    """A schedule that runs from the start, with no switch to find on a page first."""
    dagster = import_dagster()
    running = dagster.DefaultScheduleStatus.RUNNING
    return dagster.ScheduleDefinition(job=job, cron_schedule=cron, default_status=running)
