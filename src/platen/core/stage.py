"""What a stage is: a plain function from a typed config and input artifacts to one output directory.

Nothing here knows the orchestrator or the terminal: `pipeline` runs stages, `cli` draws their progress.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel

if TYPE_CHECKING:
    from platen.core.artifacts import Artifact
    from platen.core.state.interface import State


class Task(Protocol):
    """One progress bar. `completed` and `total` are in the task's unit; rate and time left follow."""

    def update(self, completed: float, *, total: float | None = None, note: str | None = None) -> None:
        """Move the bar to `completed`; `note` is a short live text such as `loss 2.31 · 9.8k tok/s`."""
        ...


class Progress(Protocol):
    """Where a stage reports what it is doing."""

    def task(
        self, description: str, *, total: float | None = None, unit: str = ""
    ) -> AbstractContextManager[Task]:
        """Open a progress bar; it disappears when the context ends."""
        ...

    def say(self, message: str) -> None:
        """Print one line that stays."""
        ...


class Tracker(Protocol):
    """Where a stage sends its curves while it runs (MLflow, or nothing)."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def params(self, params: Mapping[str, object]) -> None: ...


class _SilentTask:
    def update(self, completed: float, *, total: float | None = None, note: str | None = None) -> None:
        pass


class SilentProgress:
    """Reports nothing: for tests, subprocess ranks and library use."""

    def task(
        self, description: str, *, total: float | None = None, unit: str = ""
    ) -> AbstractContextManager[Task]:
        return nullcontext(_SilentTask())

    def say(self, message: str) -> None:
        pass


class NullTracker:
    """Keeps nothing."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def params(self, params: Mapping[str, object]) -> None:
        pass


@dataclass(frozen=True)
class StageContext:
    """Everything a stage function may use.

    `config` is the stage's own slice of `platen.yaml`; `inputs` maps a role (an upstream stage's name)
    to its finished artifact; `out` is an existing local directory that becomes the artifact when the
    function returns. For a resumable stage `out` still holds what a killed run left there; for any
    other it is empty. `fingerprint` is that of the artifact to be. `state` and `registry_url` are the
    project's, where it has other ones than those in `.platen`.
    """

    name: str
    fingerprint: str
    config: Any
    inputs: Mapping[str, Artifact]
    out: Path
    project_dir: Path
    seed: int
    progress: Progress = field(default_factory=SilentProgress)
    tracker: Tracker = field(default_factory=NullTracker)
    state: State | None = None
    registry_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class StageResult:
    """What a stage says of its output beside the files: kept in the manifest."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One node of the pipeline.

    `version` goes into the fingerprint: raise it when the code's output changes. `inputs` maps a role
    to an upstream stage's name. `config` is what the output depends on, and all of it but the seed,
    which counts when `seeded`. `sources` are the external files it reads (paths or fsspec URLs).
    """

    name: str
    kind: str
    version: int
    run: Callable[[StageContext], StageResult]
    config: BaseModel
    inputs: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[Path | str, ...] = ()
    seeded: bool = False
    resumable: bool = False
    tracked: bool = False
