"""`platen.yaml` as types: what a project is, every key with its unit, default and limits.

Loading, line numbers, `--set` and environment interpolation are in `platen.project.file`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, model_validator

from platen.compress.config import CompileConfig
from platen.core.checks import check_cron
from platen.core.config import PathInFile, Section, Text
from platen.core.errors import ConfigError
from platen.core.overlay import overlaid
from platen.core.wording import suggestion
from platen.data.config import DataConfig
from platen.data.instruct.config import InstructConfig
from platen.evaluate.config import EvaluateConfig
from platen.models.config import ModelConfig
from platen.project.stages import STAGES, AddedSections, Step, Steps
from platen.registry.config import GateRule, RegisterConfig
from platen.serve.config import ServeConfig
from platen.tokens.config import TokenizerConfig
from platen.train.config import TrainConfig

SectionT = TypeVar("SectionT", bound=BaseModel)


class RetryConfig(Section):
    """Trying a failed stage again."""

    max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Attempts after the first."""
    delay_seconds: Annotated[float, Field(ge=0, le=86_400)] = 1.0
    """Wait before the first retry. Doubles with each retry, with jitter."""


class Variant(Section):
    """A named change to model and training; each is trained and evaluated alike and compared."""

    model: dict[str, object] = Field(default_factory=dict)
    """Keys of `model` that this variant changes."""
    train: dict[str, object] = Field(default_factory=dict)
    """Keys of `train` that this variant changes."""


ProjectName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class Service(Section):
    """What of a project file is needed to serve; a gateway's file has no more."""

    name: ProjectName
    """Lower-case letters, digits, - and _; at most 63, the first a letter or digit."""
    state: Text | None = None
    """As in a whole project."""
    serve: ServeConfig
    """Serving."""


_FROM_THE_BASE = ("model", "tokenizer")
_ABOUT_A_MODEL = ("model", "evaluate", "gate", "register_as", "compile_to", "variants")


class Project(Section):
    """A whole project."""

    name: ProjectName
    """Lower-case letters, digits, - and _; at most 63, the first a letter or digit."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1337
    """Start of every random choice; the same seed gives the same run."""
    store: Text = ".platen/store"
    """Where artifacts live: a folder relative to the project file or an fsspec URL."""
    state: Text | None = None
    """PostgreSQL address, for servers on several machines that share keys and routes; default: `.platen`."""
    registry: Text | None = None
    """MLflow server or database of the runs and registered versions; default: SQLite in `.platen`."""
    data: DataConfig
    """The text."""
    base: Text | None = None
    """A model to start from: a folder, a Hub name, a registered MODEL@VERSION, a URL or a GGUF file."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """How text becomes tokens."""
    model: ModelConfig = ModelConfig()
    """The network."""
    train: TrainConfig | Steps | None = None
    """Pretraining, or a list of steps that each go on from the model before. Without it, and without `base`,
    the project ends with its data, and its tokens if `tokenizer` is given."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Measuring the model that training, or `base`, gives."""
    gate: tuple[GateRule, ...] = ()
    """All rules must pass before a model is registered."""
    register_as: RegisterConfig = Field(default=RegisterConfig(), alias="register")
    """Releasing a model that passed."""
    compile_to: Annotated[CompileConfig | None, Field(alias="compile")] = None
    """When given, a released model is compiled, and the compiled form is what is served."""
    serve: ServeConfig = ServeConfig()
    """Serving it."""
    instruct: InstructConfig | None = None
    """When given, an instruction set is made from the text and from finished pairs."""
    stages: AddedSections = Field(default_factory=dict)
    """Stages that packages add, by name, with their settings."""
    retries: dict[str, RetryConfig] = Field(default_factory=dict)
    """Stage name → how often a failure is tried again."""
    schedule: Annotated[str, AfterValidator(check_cron)] | None = None
    """Cron expression of five fields (UTC) on which `platen ui` runs the pipeline."""
    variants: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")], Variant] = Field(default_factory=dict)
    """When given, the pipeline ends in a comparison of the variants instead of a release."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Project:
        self._check_names()
        self._check_base()
        self._check_makes_model()
        self._check_context()
        if self.model.architecture != "llama" and not self.variants:
            raise ValueError(
                f"model.architecture {self.model.architecture} can't be released, only llama can; "
                "put others under variants"
            )
        if self.evaluate.split == "test" and not self.data.split.has_test:
            raise ValueError("evaluate.split is test, but data.split.test leaves that split empty")
        return self

    def _check_names(self) -> None:
        """Steps have names of their own, variants one section to change, and retries stages that exist."""
        names = [step.name for step in self.steps]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"train has two steps of the name {twice}; give each its own")
        if names and self.variants:
            raise ValueError("variants change one section train, and here it is a list of steps")
        stages = (*STAGES.all(), *(f"train.{name}" for name in names))
        for stage in self.retries:
            if stage not in stages:
                raise ValueError(
                    f"retries.{stage}: no stage is called {stage}{suggestion(stage, stages)}; "
                    f"stages: {', '.join(stages)}"
                )

    def _check_base(self) -> None:
        given = [name for name in _FROM_THE_BASE if name in self.model_fields_set]
        if self.base is not None and given:
            raise ValueError(
                f"{' and '.join(given)} with base: the network and its tokenizer are those of {self.base}; "
                f"leave {'it' if len(given) == 1 else 'them'} out, or leave out base to train from nothing"
            )
        if self.base is not None and any(variant.model for variant in self.variants.values()):
            raise ValueError(f"variants change model, and the network is that of base: {self.base}")

    def _check_makes_model(self) -> None:
        """Sections about a model need one; a section without effect is a mistake."""
        names = {"register_as": "register", "compile_to": "compile"}
        idle = [names.get(name, name) for name in _ABOUT_A_MODEL if name in self.model_fields_set]
        if self.variants and self.train is None:
            raise ValueError("variants without train: give train, such as `train: {minutes: 2}`")
        if not self.makes_model and idle:
            raise ValueError(
                f"{', '.join(idle)} without train: give train, such as `train: {{minutes: 2}}`, "
                f"or base for a model that is there, "
                f"or leave {'it' if len(idle) == 1 else 'them'} out too for a project that has no model"
            )

    def _check_context(self) -> None:
        """Of a base the window is known only when it is opened."""
        if self.train is None or self.base is not None:
            return
        window = self.model.max_position_embeddings
        for where, step in self._training_sections():
            if step.sequence_length > window:
                raise ValueError(
                    f"{where}.sequence_length ({step.sequence_length}) is longer than "
                    f"model.max_position_embeddings ({window})"
                )
        if (self.evaluate.stride or 0) > window:
            raise ValueError(
                f"evaluate.stride ({self.evaluate.stride}) is longer than "
                f"model.max_position_embeddings ({window})"
            )

    def _training_sections(self) -> Iterator[tuple[str, TrainConfig]]:
        """Sections with limits on sequences, by their keys."""
        if isinstance(self.train, TrainConfig):
            yield "train", self.train
        for number, step in enumerate(self.steps):
            if isinstance(step, TrainConfig):
                yield f"train.{number}", step

    def paths(self) -> Iterator[PathInFile]:
        if self.base is not None:
            yield PathInFile("base", self.base, "model", self)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The named steps of training; none where `train` is one section."""
        return self.train if isinstance(self.train, tuple) else ()

    @property
    def makes_tokens(self) -> bool:
        """Whether there are tokens: for a model, or asked for by a section of their own."""
        return self.makes_model or "tokenizer" in self.model_fields_set

    @property
    def makes_model(self) -> bool:
        """Whether a model comes out: one is trained, or there is one to start from."""
        return self.train is not None or self.base is not None

    @property
    def compared(self) -> tuple[str, ...]:
        """The variants' names."""
        return tuple(self.variants)

    @property
    def released_as(self) -> str:
        """The model's name in the registry."""
        return self.register_as.model or self.name

    def section(self, key: str, kind: type[SectionT]) -> SectionT | None:
        """The section under `key`, as `ProjectView` has it."""
        found = self._value(key)
        return found if isinstance(found, kind) else None

    def items(self, key: str, kind: type[SectionT]) -> tuple[SectionT, ...]:
        """The sections of the list under `key`."""
        found = self._value(key)
        return tuple(item for item in found if isinstance(item, kind)) if isinstance(found, tuple) else ()

    def _value(self, key: str) -> Any:
        names = (name for name, field in type(self).model_fields.items() if key in (name, field.alias))
        name = next(names, None)
        return None if name is None else getattr(self, name)

    def require_model(self) -> None:
        """Raises ConfigError when the project makes no model."""
        if not self.makes_model:
            raise ConfigError(
                f"the project {self.name} trains no model: its file has no `train` section, and no `base`",
                hint="add one, such as `train: {minutes: 2}`, and `platen run`; or name a model",
            )

    def training(self) -> TrainConfig:
        """The one section `train`. Raises ConfigError when the project has none, or several steps."""
        if not isinstance(self.train, TrainConfig):
            raise ConfigError(
                f"the project {self.name} has no single section `train`",
                hint="add one, such as `train: {minutes: 2}`",
            )
        return self.train

    def variant(self, name: str) -> Project:
        """This project with the changes of one of its variants made to `model` and `train`.

        Raises `KeyError` for an unknown name, and `ValueError` (or pydantic's `ValidationError`, which is
        one) when the result is not a valid project; `load_project` has checked every variant for that.
        """
        change = self.variants[name]
        result = self.model_copy(
            update={
                "model": overlaid(self.model, change.model),
                "train": overlaid(self.training(), change.train),
            }
        )
        result._check_context()
        return result
