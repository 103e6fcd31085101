"""What a stage is: a plain function from a typed config and input artifacts to one output directory.

A `StageSpec` declares one: what it makes, of what, from which section of the project file. `pipeline` makes
a project's stages from the specs, joins them by the kinds of their artifacts and runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from pydantic import BaseModel

from platen.core.metrics import Metric
from platen.core.progress import NullTracker, Progress, SilentProgress, Tracker

if TYPE_CHECKING:
    from platen.core.artifacts import Artifact
    from platen.core.state.interface import State

ConfigT = TypeVar("ConfigT", bound=BaseModel)
SectionT = TypeVar("SectionT", bound=BaseModel)
Sources = Sequence[Path | str]
"""Files outside the store that a stage reads: paths or fsspec URLs."""


@dataclass(frozen=True)
class StageContext(Generic[ConfigT]):
    """Everything a stage function may use.

    `inputs` maps a role to a finished artifact; `input` finds one by its kind. `out` is an existing local
    directory that becomes the artifact when the function returns. For a resumable stage it still holds what
    a killed run left there; for any other it is empty. `fingerprint` is that of the artifact to be. `metrics`
    are those that reports declare, by name. `state` and `registry_url` are the project's, where it has other
    ones than those in `.platen`.
    """

    name: str
    fingerprint: str
    config: ConfigT
    inputs: Mapping[str, Artifact]
    out: Path
    project_dir: Path
    seed: int
    progress: Progress = field(default_factory=SilentProgress)
    tracker: Tracker = field(default_factory=NullTracker)
    metrics: Mapping[str, Metric[Any]] = field(default_factory=dict)
    state: State | None = None
    registry_url: str | None = field(default=None, repr=False)

    def find(self, *kinds: str) -> Artifact | None:
        """The input of the first of these kinds that there is one of, or None."""
        by_kind = {artifact.manifest.kind: artifact for artifact in self.inputs.values()}
        return next((by_kind[kind] for kind in kinds if kind in by_kind), None)

    def input(self, *kinds: str) -> Artifact:
        """The same for an input that the stage needs."""
        found = self.find(*kinds)
        if found is None:
            raise KeyError(f"{self.name} has no input of the kind {' or '.join(kinds)}")
        return found


@dataclass(frozen=True)
class StageResult:
    """What a stage says of its output beside the files: kept in the manifest."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


class ProjectView(Protocol):
    """A project file as a stage's declaration sees it."""

    @property
    def name(self) -> str: ...

    @property
    def base(self) -> str | None:
        """The model that it starts from."""
        ...

    @property
    def registry(self) -> str | None:
        """The registry's address, where it is not the project's own."""
        ...

    @property
    def makes_model(self) -> bool:
        """Whether a model comes out: one is trained, or there is one to start from."""
        ...

    @property
    def makes_tokens(self) -> bool: ...

    @property
    def compared(self) -> tuple[str, ...]:
        """Names of variants; with some, the project ends in their comparison."""
        ...

    def section(self, key: str, kind: type[SectionT]) -> SectionT | None:
        """The section under `key` with its defaults; None for one that is left out and has none."""
        ...

    def items(self, key: str, kind: type[SectionT]) -> tuple[SectionT, ...]:
        """The sections of the list under `key`."""
        ...


@dataclass(frozen=True)
class Needs:
    """An input: the nearest artifact before the stage that is of one of `kinds`.

    With `stage` it is that stage's. An `optional` one may be missing. `every` takes all variants' artifacts
    of these kinds instead, each under its stage's name.
    """

    kinds: tuple[str, ...] = ()
    stage: str | None = None
    optional: bool = False
    every: bool = False


def needs(*kinds: str, optional: bool = False) -> Needs:
    """The nearest artifact of one of these kinds."""
    return Needs(kinds, optional=optional)


@dataclass(frozen=True)
class StageSpec(Generic[ConfigT]):
    """The declaration of a stage.

    `run` and `sources` may be `module:function`, imported when first called: their libraries load only then.
    `version` goes into the fingerprint: raise it when the code's output changes. `config` is what the output
    depends on, and all of it but the seed, which counts when `seeded`. `settings` makes the config from the
    project file, or None where the project has no such stage; without `settings` it is the section
    `stages.NAME`. `inputs` maps a role, which goes into the fingerprint too, to what is needed.

    A `resumable` stage goes on in its directory after a kill. A `tracked` one's curves go to MLflow.
    `per_variant` runs it for each variant. `processes` says on how many at once it runs. `extra` is the
    optional dependency group that it needs. `metrics` are what its report has; gates can be set on them.
    """

    name: str
    kind: str | Callable[[ConfigT], str]
    config: type[ConfigT]
    run: str | Callable[[StageContext[ConfigT]], StageResult]
    inputs: Mapping[str, Needs] | Callable[[ConfigT], Mapping[str, Needs]] = field(default_factory=dict)
    version: int = 1
    settings: Callable[[ProjectView], ConfigT | None] | None = None
    sources: str | Callable[[ConfigT, Path], Sources] | None = None
    seeded: bool = False
    resumable: bool = False
    tracked: bool = False
    per_variant: bool = False
    processes: Callable[[ConfigT], int] = lambda _: 1
    extra: str | None = None
    metrics: Callable[[], Sequence[Metric[Any]]] = tuple

    def kind_of(self, config: ConfigT) -> str:
        return self.kind if isinstance(self.kind, str) else self.kind(config)

    def inputs_of(self, config: ConfigT) -> Mapping[str, Needs]:
        return self.inputs(config) if callable(self.inputs) else self.inputs

    def sources_of(self, config: ConfigT, directory: Path) -> Sources:
        """The files that it reads; `directory` is the project's. Raises as reading them would."""
        if self.sources is None:
            return ()
        return cast(Sources, _function(self.sources)(config, directory))

    def call(self, ctx: StageContext[ConfigT]) -> StageResult:
        """Run it."""
        return cast(StageResult, _function(self.run)(ctx))


@dataclass(frozen=True)
class StepSpec(Generic[SectionT, ConfigT]):
    """A kind of training, as `train[].kind` names it.

    `section` is the step's section in the project file, with `name` and `kind` (a Literal of its one name)
    among its keys. `settings` makes the stage's config of it; `first` tells that no model comes before.
    """

    name: str
    section: type[SectionT]
    stage: StageSpec[ConfigT]
    settings: Callable[[ProjectView, SectionT, bool], ConfigT]


@dataclass(frozen=True)
class Stage:
    """One node of a project's pipeline: a spec with its config, and which stages its inputs come from."""

    name: str
    spec: StageSpec[Any]
    config: BaseModel
    inputs: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[Path | str, ...] = ()

    @property
    def kind(self) -> str:
        return self.spec.kind_of(self.config)

    @property
    def variant(self) -> str:
        """`@NAME` of the variant that it belongs to, or nothing."""
        _, at, name = self.name.partition("@")
        return at + name


def _function(named: str | Callable[..., Any]) -> Callable[..., Any]:
    if callable(named):
        return named
    module, _, name = named.partition(":")
    return cast(Callable[..., Any], getattr(import_module(module), name))
