"""`platen.yaml` as types: what a project is, every key with its unit, default and limits.

Loading, line numbers, `--set` and environment interpolation are in `projectfile`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of the project file. Unknown keys are refused; types are not coerced from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Source(Section):
    path: str
    """A file, a folder or a glob, relative to the project file, or an fsspec URL."""
    encoding: str = "utf-8"
    """Text encoding of the files; bytes that do not decode are an error, never guessed."""


class CleanConfig(Section):
    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normalisation form."""
    min_characters: Annotated[int, Field(ge=0)] = 3
    """Documents shorter than this after cleaning are dropped and counted."""
    deduplicate: bool = True
    """Drop documents whose cleaned text is exactly the same as an earlier one's."""


class SplitConfig(Section):
    """Documents are assigned whole, so no text is in two splits."""

    validation: Fraction | tuple[str, ...] = 0.1
    """A fraction of the characters (documents chosen by hash), or the names of documents."""
    test: Fraction | tuple[str, ...] = 0.0
    """Held out for the last word; same forms as `validation`."""


class DataConfig(Section):
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    clean: CleanConfig = CleanConfig()
    split: SplitConfig = SplitConfig()


class TokenizerConfig(Section):
    """A byte-level BPE trained on the training split."""

    vocab_size: Annotated[int, Field(ge=259, le=1_000_000)] = 1024
    """Entries in all: 256 bytes, merges and special tokens."""
    min_frequency: PositiveInt = 2
    """A pair seen fewer times is never merged."""
    chat_template: str | None = None
    """A Jinja chat template file, relative to the project file; a plain one when absent."""


class RopeScalingConfig(Section):
    """Llama 3.1's frequency scaling for contexts longer than the training length."""

    factor: Annotated[float, Field(ge=1)] = 8.0
    low_freq_factor: Annotated[float, Field(gt=0)] = 1.0
    high_freq_factor: Annotated[float, Field(gt=0)] = 4.0
    original_max_position_embeddings: PositiveInt = 8192


class ModelConfig(Section):
    """The shape of the network, in Hugging Face's names."""

    architecture: Literal["llama", "feedforward", "rmsnorm", "rope_attention", "swiglu"] = "llama"
    """`llama`, or a rung of the ablation ladder below it."""
    hidden_size: PositiveInt = 192
    intermediate_size: PositiveInt = 512
    num_hidden_layers: PositiveInt = 6
    num_attention_heads: PositiveInt = 6
    num_key_value_heads: PositiveInt | None = None
    """Key/value heads; fewer than `num_attention_heads` is grouped-query attention. Default: as many."""
    max_position_embeddings: PositiveInt = 256
    """Context window in tokens."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    rope_scaling: RopeScalingConfig | None = None
    rms_norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError("hidden_size / num_attention_heads must be even for rotary embeddings")
        if self.num_key_value_heads and self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        return self


class TrainConfig(Section):
    """Pretraining. It stops at the first limit reached; at least one of the four is needed."""

    minutes: Annotated[float, Field(gt=0)] | None = None
    """Wall-clock budget of training itself, in minutes, summed over resumed runs."""
    steps: PositiveInt | None = None
    tokens: PositiveInt | None = None
    patience: PositiveInt | None = None
    """Stop after this many evaluations without a better validation loss."""
    batch_size: PositiveInt = 16
    """Sequences in one optimizer step (on all processes together)."""
    sequence_length: PositiveInt = 128
    accumulation: PositiveInt = 1
    """Micro-batches that one step's batch is cut into."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    min_learning_rate_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The schedule's floor, as a share of `learning_rate`."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """Warm-up then cosine; warm-up, stable, decay; or warm-up then constant."""
    warmup: Fraction = 0.02
    """Share of the run spent warming up."""
    decay: Fraction = 0.2
    """Share of the run that `wsd` spends decaying."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """On matrices only."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    dropout: Fraction = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is bfloat16 where the processor multiplies it in hardware."""
    compile: bool = False
    """Use torch.compile; pays after its compile time (about a minute)."""
    evaluate_every: PositiveInt = 100
    """Steps between evaluations on the validation split."""
    checkpoint_every: PositiveInt = 100
    """Steps between checkpoints."""
    threads: PositiveInt | None = None
    """CPU threads; default: all cores."""

    @model_validator(mode="after")
    def _bounded(self) -> TrainConfig:
        if self.minutes is None and self.steps is None and self.tokens is None and self.patience is None:
            raise ValueError("give at least one of minutes, steps, tokens, patience")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of accumulation ({self.accumulation})"
            )
        return self


class EvaluateConfig(Section):
    split: Literal["validation", "test"] = "validation"
    stride: PositiveInt | None = None
    """Tokens the sliding window moves each step; default: half the context window."""
    prompts: tuple[str, ...] = ("\n",)
    """Prompts that the samples in the report continue."""
    sample_tokens: Annotated[int, Field(ge=0)] = 120
    temperature: Annotated[float, Field(ge=0)] = 0.8


class GateRule(Section):
    """One condition on one metric of the evaluation report."""

    metric: str
    """A metric's name in the report, such as `bits_per_byte`."""
    max: float | None = None
    min: float | None = None
    no_worse_than: Literal["production"] | None = None
    """Compare with the model now in production; passes when there is none."""
    by: Annotated[float, Field(ge=0)] = 0.0
    """How much worse than production is still accepted, in the metric's unit."""

    @model_validator(mode="after")
    def _one_condition(self) -> GateRule:
        if self.max is None and self.min is None and self.no_worse_than is None:
            raise ValueError("give max, min or no_worse_than")
        return self


class RegisterConfig(Section):
    model: str | None = None
    """Name in the registry; default: the project's name."""
    promote: Literal["candidate", "production"] = "production"
    """Alias that a version which passed the gate gets."""


class ServeConfig(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 picks a free one."""
    max_concurrent: PositiveInt = 16
    """Requests decoded together; more wait in the queue."""
    max_queue: Annotated[int, Field(ge=0)] = 64
    """Requests that may wait; more are answered 429 with Retry-After."""
    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long SIGTERM lets running requests finish."""


class RetryConfig(Section):
    max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    delay_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Doubles with each retry, with jitter."""


class Variant(Section):
    """A named change to model and training; each is trained and evaluated alike and compared."""

    model: dict[str, object] = Field(default_factory=dict)
    train: dict[str, object] = Field(default_factory=dict)


class Project(Section):
    """A whole project."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    """Lower-case letters, digits, - and _."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1337
    store: str = ".platen/store"
    """Where artifacts live: a folder relative to the project file or an fsspec URL."""
    data: DataConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: tuple[GateRule, ...] = ()
    """All rules must pass before a model is registered."""
    register_as: RegisterConfig = Field(default=RegisterConfig(), alias="register")
    serve: ServeConfig = ServeConfig()
    retries: dict[str, RetryConfig] = Field(default_factory=dict)
    """Stage name → how often a failure is tried again."""
    schedule: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")] | None = None
    """Cron expression (UTC) on which `platen ui` runs the pipeline."""
    variants: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")], Variant] = Field(default_factory=dict)
    """When given, the pipeline ends in a comparison of the variants instead of a release."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Project:
        if self.train.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"train.sequence_length ({self.train.sequence_length}) is longer than "
                f"model.max_position_embeddings ({self.model.max_position_embeddings})"
            )
        if self.model.architecture != "llama" and not self.variants:
            raise ValueError("only the llama architecture can be released; put others under variants")
        return self
