"""`platen.yaml` as types: what a project is, every key with its unit, default and limits.

Loading, line numbers, `--set` and environment interpolation are in `platen.project.file`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from platen.compress.config import CompileConfig
from platen.core.checks import check_cron
from platen.core.config import Section, Text
from platen.core.errors import ConfigError
from platen.core.overlay import overlaid
from platen.data.config import DataConfig
from platen.data.instruct.config import InstructConfig
from platen.evaluate.config import EvaluateConfig
from platen.models.config import ModelConfig
from platen.registry.config import GateRule, RegisterConfig
from platen.serve.config import ServeConfig
from platen.tokens.config import TokenizerConfig
from platen.train.config import TrainConfig

StageName = Literal[
    "data", "instruct", "tokenizer", "tokens", "train", "evaluate", "register", "compile", "compare"
]


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
    tokenizer: TokenizerConfig = TokenizerConfig()
    """How text becomes tokens."""
    model: ModelConfig = ModelConfig()
    """The network."""
    train: TrainConfig | None = None
    """Pretraining; without it the project ends with its data, and its tokens if `tokenizer` is given."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Measuring the trained model."""
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
    retries: dict[StageName, RetryConfig] = Field(default_factory=dict)
    """Stage name → how often a failure is tried again."""
    schedule: Annotated[str, AfterValidator(check_cron)] | None = None
    """Cron expression of five fields (UTC) on which `platen ui` runs the pipeline."""
    variants: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")], Variant] = Field(default_factory=dict)
    """When given, the pipeline ends in a comparison of the variants instead of a release."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Project:
        self._check_trains()
        self._check_context()
        if self.model.architecture != "llama" and not self.variants:
            raise ValueError(
                f"model.architecture {self.model.architecture} can't be released, only llama can; "
                "put others under variants"
            )
        if self.evaluate.split == "test" and not self.data.split.has_test:
            raise ValueError("evaluate.split is test, but data.split.test leaves that split empty")
        return self

    def _check_trains(self) -> None:
        """Sections about a model need one that is trained; a section without effect is a mistake."""
        names = {"register_as": "register", "compile_to": "compile"}
        idle = [names.get(name, name) for name in _ABOUT_A_MODEL if name in self.model_fields_set]
        if self.train is None and idle:
            raise ValueError(
                f"{', '.join(idle)} without train: give train, such as `train: {{minutes: 2}}`, "
                f"or leave {'it' if len(idle) == 1 else 'them'} out too for a project that trains no model"
            )

    def _check_context(self) -> None:
        if self.train is None:
            return
        if self.train.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"train.sequence_length ({self.train.sequence_length}) is longer than "
                f"model.max_position_embeddings ({self.model.max_position_embeddings})"
            )
        if (self.evaluate.stride or 0) > self.model.max_position_embeddings:
            raise ValueError(
                f"evaluate.stride ({self.evaluate.stride}) is longer than "
                f"model.max_position_embeddings ({self.model.max_position_embeddings})"
            )

    @property
    def makes_tokens(self) -> bool:
        """Whether there are a tokenizer and tokens: for a model, or asked for by a section of their own."""
        return self.train is not None or "tokenizer" in self.model_fields_set

    def training(self) -> TrainConfig:
        """How the model is trained. Raises ConfigError when the project trains none."""
        if self.train is None:
            raise ConfigError(
                f"the project {self.name} trains no model: its file has no `train` section",
                hint="add one, such as `train: {minutes: 2}`, and `platen run`; or name a model",
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
