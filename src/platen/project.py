"""`platen.yaml` as types: what a project is, every key with its unit, default and limits.

Loading, line numbers, `--set` and environment interpolation are in `projectfile`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from platen.checks import check_cron, check_split
from platen.errors import ConfigError
from platen.overlay import overlaid
from platen.projectdata import OnError as OnError
from platen.projectdata import ReadLimits as ReadLimits
from platen.projectdata import Source as Source
from platen.projectfilters import FiltersConfig
from platen.projectinstruct import InstructConfig
from platen.projectmodel import ModelConfig as ModelConfig
from platen.projectmodel import PretrainConfig as PretrainConfig
from platen.projectmodel import TrainConfig as TrainConfig
from platen.projectparts import Fraction, PositiveInt, Section, Text
from platen.projectserving import ServeConfig

StageName = Literal[
    "data", "instruct", "tokenizer", "tokens", "train", "evaluate", "register", "compile", "compare"
]


class CleanConfig(Section):
    """What is done to each document before the split."""

    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normalisation form."""
    min_characters: Annotated[int, Field(ge=0)] = 3
    """Documents shorter than this after cleaning are dropped and counted."""
    deduplicate: bool = True
    """Drop documents whose cleaned text is exactly the same as an earlier one's."""


class SplitConfig(Section):
    """Documents are assigned whole, so no text is in two splits."""

    by: Literal["document", "hash", "group", "time"] = "document"
    """`document`: exact shares; `hash`, `group`: adding data moves no document or group; `time`: by dates."""
    key: Text | None = None
    """Metadata key with the group or time, or `source` for a document's file. Only by group or time."""
    validation_from: Text | None = None
    """An ISO date or time from which documents are for validation. Only by time, which takes no shares."""
    test_from: Text | None = None
    """Later than `validation_from`; from then on they are for the test."""
    validation: Fraction | tuple[str, ...] = 0.1
    """A fraction of the characters (documents chosen by hash), or the names of documents."""
    test: Fraction | tuple[str, ...] = 0.0
    """Held out for the last word; same forms as `validation`."""

    @model_validator(mode="after")
    def _leaves_training_text(self) -> SplitConfig:
        check_split(self.by, self.key, self.validation_from, self.test_from)
        if self.by != "document" and (isinstance(self.validation, tuple) or isinstance(self.test, tuple)):
            raise ValueError("documents can be listed only when splitting by document")
        if not self.validation:
            raise ValueError("validation is empty; training needs it to choose its best checkpoint")
        if isinstance(self.validation, float) and isinstance(self.test, float):
            if self.validation + self.test >= 1:
                raise ValueError(
                    f"validation ({self.validation:g}) and test ({self.test:g}) leave nothing to train on"
                )
        elif isinstance(self.validation, tuple) and isinstance(self.test, tuple):
            both = len(set(self.validation) & set(self.test))
            if both:
                raise ValueError(f"test and validation share documents ({both}); one split each")
        return self

    @property
    def has_test(self) -> bool:
        """Whether there is to be a test split."""
        return self.test_from is not None if self.by == "time" else bool(self.test)


class DataConfig(Section):
    """The text: from where, how it is cleaned, how it is split."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Read in this order."""
    on_error: OnError = "stop"
    """A record or file that can't be read: `stop` there, or put it aside in quarantine.jsonl and go on."""
    limits: ReadLimits = ReadLimits()
    """What is too much for one record."""
    clean: CleanConfig = CleanConfig()
    """Cleaning."""
    split: SplitConfig = SplitConfig()
    """Which documents training never sees."""
    filters: FiltersConfig | None = None
    """When given, documents pass these blocks between cleaning and splitting."""


class TokenizerConfig(Section):
    """A tokenizer trained on the training split."""

    kind: Literal["bpe", "wordpiece", "unigram", "sentencepiece_bpe", "sentencepiece_unigram"] = "bpe"
    """The algorithm. `bpe` and `unigram` work on bytes; `wordpiece` is BERT's and loses blanks."""
    vocab_size: Annotated[int, Field(ge=259, le=1_000_000)] = 1024
    """Entries in all: 256 bytes, merges and special tokens."""
    min_frequency: PositiveInt = 2
    """A pair seen fewer times is never merged (`bpe`, `wordpiece`)."""
    chat_template: Text | None = None
    """`plain`, `instruct`, or a Jinja file relative to the project file; `plain` when absent."""
    fill_in_the_middle: bool = False
    """Also have the special tokens that mark the parts of a text with a gap."""
    special_tokens: tuple[Text, ...] = ()
    """Further special tokens."""


class EvaluateConfig(Section):
    """What is measured on the trained model."""

    split: Literal["validation", "test"] = "validation"
    """The split that is scored."""
    stride: PositiveInt | None = None
    """Tokens the sliding window moves each step; default: half the context window."""
    prompts: tuple[str, ...] = ("\n",)
    """Prompts that the samples in the report continue."""
    sample_tokens: Annotated[int, Field(ge=0, le=100_000)] = 120
    """Tokens in each sample."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.8
    """Of the samples; 0 takes the likeliest token each time."""


class GateRule(Section):
    """One condition on one metric of the evaluation report."""

    metric: Text
    """A metric's name in the report, such as `bits_per_byte`."""
    max: float | None = None
    """Fails above this."""
    min: float | None = None
    """Fails below this."""
    no_worse_than: Literal["production"] | None = None
    """Compare with the model now in production; passes when there is none."""
    by: Annotated[float, Field(ge=0)] = 0.0
    """How much worse than production is still accepted, in the metric's unit."""

    @model_validator(mode="after")
    def _one_condition(self) -> GateRule:
        if self.max is None and self.min is None and self.no_worse_than is None:
            raise ValueError("give max, min or no_worse_than")
        if self.max is not None and self.min is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) is above max ({self.max:g}); nothing can pass")
        return self


class RegisterConfig(Section):
    """Under what name a model that passed the gate is released."""

    model: Text | None = None
    """Name in the registry; default: the project's name."""
    promote: Literal["candidate", "production"] = "production"
    """Alias that a version which passed the gate gets."""


class ReleaseConfig(Section):
    """What the release of a model depends on: its name, the alias it gets and the gate before it."""

    model: str
    promote: Literal["candidate", "production"]
    gate: tuple[GateRule, ...]


COMPILED_WEIGHTS = {"openvino": ("int8", "int4", "bf16"), "gguf": ("q8_0", "f16", "bf16")}
"""What a compiled form can keep matrices in; the first is the default."""


class CompileConfig(Section):
    """The form of a released model that a faster CPU engine runs."""

    to: Literal["openvino", "gguf"] = "openvino"
    """`openvino` for x86 and Arm CPUs, `gguf` for llama.cpp."""
    weights: Literal["int8", "int4", "bf16", "q8_0", "f16"] | None = None
    """How matrices are kept. openvino: int8 (default), int4, bf16; gguf: q8_0 (default), f16, bf16."""

    @model_validator(mode="after")
    def _possible(self) -> CompileConfig:
        allowed = COMPILED_WEIGHTS[self.to]
        if self.weights is not None and self.weights not in allowed:
            raise ValueError(f"{self.to} weights can be {', '.join(allowed)}; found {self.weights}")
        return self


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
