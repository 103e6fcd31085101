"""Run a project's stale stages as Dagster assets.

Dagster gives order, retries, gates as blocking asset checks, schedules and the history that its page
shows; what is stale was settled before by the planner, so a fresh project never starts Dagster at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from platen.core.artifacts import Artifact, Manifest, SourceIndex, Store, made_with, now
from platen.core.errors import ArtifactError, ConfigError, MissingExtraError, PlatenError
from platen.core.progress import NullTracker, Progress, SilentProgress, Tracker
from platen.core.stage import Stage, StageContext
from platen.core.state.embedded import STATE_FOLDER
from platen.core.state.interface import LockHeldError, StateError
from platen.pipeline.graph import build_stages, select
from platen.pipeline.launcher import launch
from platen.pipeline.planner import PlannedStage, plan
from platen.project.file import LoadedProject
from platen.project.stages import declared_metrics
from platen.registry.config import EVALUATION

if TYPE_CHECKING:
    from platen.core.state.interface import State
    from platen.registry.config import GateRule
    from platen.registry.gate import GateOutcome
    from platen.registry.versions import Registry

LATEST = "latest"
"""The document of what the latest run stands on."""


@dataclass
class RunReport:
    """What one run did, in order: names made, names that were fresh, and what failed, by stage."""

    made: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    errors: dict[str, BaseException] = field(default_factory=dict)


class Observer(Progress, Protocol):
    """Progress that also hears of stages beginning and ending."""

    def stage_started(self, planned: PlannedStage) -> None: ...

    def stage_done(self, planned: PlannedStage, manifest: Manifest) -> None: ...

    def stage_retried(self, planned: PlannedStage, error: BaseException) -> None: ...


class SilentObserver(SilentProgress):
    """Hears all and says nothing."""

    def stage_started(self, planned: PlannedStage) -> None:
        pass

    def stage_done(self, planned: PlannedStage, manifest: Manifest) -> None:
        pass

    def stage_retried(self, planned: PlannedStage, error: BaseException) -> None:
        pass


class Pipeline:
    """One project's stages, store and state directory."""

    def __init__(self, loaded: LoadedProject) -> None:
        self.project = loaded.project
        self.directory = loaded.directory
        self.folder = loaded.directory / STATE_FOLDER
        self.store = Store(
            loaded.project.store,
            base=loaded.directory,
            scratch=self.folder,
            shown=loaded.redact(loaded.project.store),
        )
        self._loaded = loaded

    @cached_property
    def state(self) -> State:
        """What the project remembers between runs; opened when first asked for. Raises ConfigError."""
        return self._loaded.open_state()

    @cached_property
    def registry(self) -> Registry:
        """The project's runs and registered versions. Raises as `state`, and RegistryError."""
        from platen.registry.versions import Registry

        return Registry(self.directory, url=self.project.registry, state=self.state)

    def plan(self, targets: tuple[str, ...] = ()) -> tuple[PlannedStage, ...]:
        """The stages that `targets` need, each fresh or stale. Raises ConfigError, DataError."""
        return plan(
            select(build_stages(self.project, self.directory), targets),
            self.store,
            seed=self.project.seed,
            directory=self.directory,
            redact=self._loaded.redact,
            index=SourceIndex(self.folder / "sources.json"),
        )

    @contextmanager
    def lock(self, waiting: Callable[[str], None] = lambda _: None, timeout: float = -1) -> Iterator[None]:
        """One run at a time on one project.

        `waiting` is told once who else is at it; raises ArtifactError after `timeout` seconds (-1: never).
        """
        try:
            held = ExitStack()
            held.enter_context(self.state.lock("run", waiting=waiting, timeout=timeout))
        except LockHeldError as error:
            raise ArtifactError(
                f"another run ({error.owner}) is working on this project",
                hint="wait for it, or stop it; then run again",
            ) from None
        with held:
            yield

    def run(self, targets: tuple[str, ...] = (), observer: Observer | None = None) -> RunReport:
        """Make every stale stage that `targets` need. The caller holds the lock.

        A failed gate or a failing stage ends up in the report's `errors`; what does not depend on it
        is still made, and everything finished is kept. An interrupt is raised as KeyboardInterrupt.
        """
        from platen.pipeline.orchestration import materialize

        planned = self.plan(targets)
        report = RunReport()
        if all(entry.fresh for entry in planned):
            report.fresh = [entry.stage.name for entry in planned]
        else:
            materialize(Execution(self, planned, observer or SilentObserver(), report))
        if not report.errors:
            self.remember(planned)
        return report

    def artifact(self, entry: PlannedStage) -> Artifact:
        """A fresh stage's artifact. Raises ArtifactError when its files are damaged or gone."""
        found = self.store.find(entry.stage.name, entry.fingerprint)
        if found is None:
            raise PlatenError(f"{entry.stage.name} has not been made", hint="platen run")
        return found

    def execute(
        self,
        entry: PlannedStage,
        inputs: Mapping[str, Artifact],
        progress: Progress,
    ) -> Artifact:
        """Run one stage function and publish what it wrote."""
        stage = entry.stage
        work = self.store.work_dir(stage.name, entry.fingerprint, keep=stage.spec.resumable)
        started = time.monotonic()
        with self._tracker(entry) as tracker:
            result = launch(
                stage,
                StageContext(
                    name=stage.name,
                    fingerprint=entry.fingerprint,
                    config=stage.config,
                    inputs=inputs,
                    out=work,
                    project_dir=self.directory,
                    state=self.state,
                    registry_url=self.project.registry,
                    seed=self.project.seed,
                    progress=progress,
                    tracker=tracker,
                    metrics=declared_metrics(),
                ),
            )
        manifest = Manifest(
            name=stage.name,
            kind=stage.kind,
            fingerprint=entry.fingerprint,
            code_version=stage.spec.version,
            config=entry.config,
            inputs=entry.inputs,
            sources=entry.sources,
            metrics={key: float(value) for key, value in result.metrics.items()},
            notes=dict(result.notes),
            created_at=now(),
            duration_s=round(time.monotonic() - started, 3),
            made_with=made_with(),
        )
        return self.store.commit(work, manifest)

    def _tracker(self, entry: PlannedStage) -> AbstractContextManager[Tracker]:
        if not entry.stage.spec.tracked:
            return nullcontext(NullTracker())
        from platen.registry.tracking import MlflowTracker

        return MlflowTracker(
            self.registry.backend,
            experiment=self.project.name,
            run_name=entry.stage.name,
            fingerprint=entry.fingerprint,
        )

    def rules_on(self, stage: Stage) -> tuple[GateRule, ...]:
        """The gate's rules on what a stage reports. Variants are compared and pass no gate."""
        if self.project.variants:
            return ()
        return tuple(rule for rule in self.project.gate if rule.report == stage.name)

    def latest(self) -> dict[str, str]:
        """The artifact that each stage last made or found fresh, as `name/fingerprint`."""
        try:
            known = self.state.document(LATEST).read()
        except StateError:
            return {}
        return {str(name): str(ref) for name, ref in known.items()} if isinstance(known, dict) else {}

    def remember(self, planned: Iterable[PlannedStage]) -> None:
        """Note what was made or found fresh, so that clearing up spares it."""
        new = {entry.stage.name: f"{entry.stage.name}/{entry.fingerprint}" for entry in planned}
        if not new.items() <= self.latest().items():
            self.state.document(LATEST).update(lambda known: (known if isinstance(known, dict) else {}) | new)


class Execution:
    """One materialization of the planned stages."""

    def __init__(
        self, pipeline: Pipeline, planned: tuple[PlannedStage, ...], observer: Observer, report: RunReport
    ) -> None:
        self.pipeline = pipeline
        self.planned = planned
        self.observer = observer
        self.report = report
        self.artifacts: dict[str, Artifact] = {}
        self.interrupted = False

    def make(self, entry: PlannedStage) -> tuple[Artifact, bool]:
        """A stage's artifact, and whether it had to be made."""
        name = entry.stage.name
        usable, _ = self.pipeline.store.check(name, entry.fingerprint)
        found = self.pipeline.store.find(name, entry.fingerprint) if usable else None
        if found is not None:
            self.report.fresh.append(name)
            self.artifacts[name] = found
            return found, False
        self.observer.stage_started(entry)
        inputs = {role: self._upstream(name) for role, name in entry.stage.inputs.items()}
        try:
            artifact = self.pipeline.execute(entry, inputs, self.observer)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("platen"):
                raise
            raise _missing(entry.stage, error) from error
        self.artifacts[name] = artifact
        self.pipeline.remember([entry])
        self.report.made.append(name)
        self.observer.stage_done(entry, artifact.manifest)
        return artifact, True

    def _upstream(self, name: str) -> Artifact:
        if name not in self.artifacts:  # made by an earlier run, and not selected in this one
            entry = next(entry for entry in self.planned if entry.stage.name == name)
            self.artifacts[name] = self.pipeline.artifact(entry)
        return self.artifacts[name]

    def check_gate(self, entry: PlannedStage, artifact: Artifact) -> GateOutcome:
        """The outcome of the rules on a report; a failure is kept as the run's error."""
        from platen.registry.gate import judge, report_metrics

        pipeline, stage = self.pipeline, entry.stage
        model = next((self._upstream(name) for name in stage.inputs.values() if self._is_model(name)), None)
        outcome = judge(
            pipeline.rules_on(stage),
            report_metrics({stage.name: artifact.manifest.metrics}),
            pipeline.registry.production(pipeline.project.released_as),
            declared_metrics(),
            fingerprint=None if model is None else model.manifest.fingerprint,
        )
        for line in outcome.lines:
            self.observer.say(line)
        key = "gate" if stage.name == EVALUATION else f"gate on {stage.name}"
        self.report.errors.pop(key, None)  # an earlier try's
        if not outcome.passed:
            self.report.errors[key] = outcome.refusal(artifact.manifest.ref)
        return outcome

    def _is_model(self, name: str) -> bool:
        return next(entry.stage.kind for entry in self.planned if entry.stage.name == name) == "model"


def _missing(stage: Stage, error: ModuleNotFoundError) -> PlatenError:
    """What to say when a stage lacks a library: its own extra, where one brings it."""
    what = f"stage {stage.name} (it uses {error.name})"
    if stage.spec.extra is not None:
        return MissingExtraError(stage.spec.extra, what)
    return ConfigError(f"{what} lacks a library", hint=f"install {error.name}")
