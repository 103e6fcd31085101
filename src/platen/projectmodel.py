"""The part of the project file that says what network there is and how it is pretrained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from platen.projectparts import Fraction, PositiveInt, Section


class RopeScalingConfig(Section):
    """Llama 3.1's frequency scaling for contexts longer than the training length."""

    factor: Annotated[float, Field(ge=1)] = 8.0
    """How many times longer the slow frequencies' wavelengths become."""
    low_freq_factor: Annotated[float, Field(gt=0)] = 1.0
    """Wavelengths over original_max_position_embeddings / this are scaled in full."""
    high_freq_factor: Annotated[float, Field(gt=0)] = 4.0
    """Wavelengths under original_max_position_embeddings / this are left alone."""
    original_max_position_embeddings: PositiveInt = 8192
    """The context window, in tokens, that the frequencies were made for."""

    @model_validator(mode="after")
    def _ordered(self) -> RopeScalingConfig:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor ({self.low_freq_factor:g}) must be less than "
                f"high_freq_factor ({self.high_freq_factor:g})"
            )
        return self


class ModelConfig(Section):
    """The shape of the network, in Hugging Face's names."""

    architecture: Literal["llama", "feedforward", "rmsnorm", "rope_attention", "swiglu"] = "llama"
    """`llama`, or a rung of the ablation ladder below it."""
    hidden_size: PositiveInt = 192
    """Width: numbers per token between layers. A multiple of `num_attention_heads`."""
    intermediate_size: PositiveInt = 512
    """Width inside the feed-forward block."""
    num_hidden_layers: PositiveInt = 6
    """Depth: transformer blocks."""
    num_attention_heads: PositiveInt = 6
    """Query heads."""
    num_key_value_heads: PositiveInt | None = None
    """Key/value heads; fewer than `num_attention_heads` is grouped-query attention. Default: as many."""
    max_position_embeddings: PositiveInt = 256
    """Context window in tokens."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    """Base of the rotary embedding's wavelengths."""
    rope_scaling: RopeScalingConfig | None = None
    """Stretch the rotary wavelengths; none when absent."""
    rms_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Added to the mean square before its root is taken."""
    tie_word_embeddings: bool = True
    """Use one matrix to read tokens and to predict them."""

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
    """Optimizer steps."""
    tokens: PositiveInt | None = None
    """Tokens trained on, repeats counted."""
    patience: PositiveInt | None = None
    """Stop after this many evaluations without a better validation loss."""
    batch_size: PositiveInt = 16
    """Sequences in one optimizer step (on all processes together)."""
    sequence_length: PositiveInt = 128
    """Tokens in one sequence; at most `model.max_position_embeddings`."""
    accumulation: PositiveInt = 1
    """Micro-batches that one step's batch is cut into."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` makes the steps of the layers' matrices orthogonal; AdamW still trains the rest."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """AdamW's peak rate, reached after the warm-up."""
    muon_learning_rate: Annotated[float, Field(gt=0)] = 0.02
    """Muon's peak rate; it follows the same schedule. Only with `optimizer: muon`."""
    muon_momentum: Fraction = 0.95
    """Muon's decay of the mean gradient."""
    min_learning_rate_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The schedule's floor, as a share of `learning_rate`."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Warm-up, then down a cosine or a line; warm-up, stable, decay; or warm-up then constant."""
    warmup: Fraction = 0.02
    """Share of the run spent warming up."""
    decay: Fraction = 0.2
    """Share of the run that `wsd` spends decaying."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """On matrices only."""
    beta1: Fraction = 0.9
    """AdamW's decay of the mean gradient."""
    beta2: Fraction = 0.95
    """AdamW's decay of the mean squared gradient."""
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the whole gradient; null does not clip."""
    dropout: Fraction = 0.0
    """Share of activations dropped in training."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is bfloat16 where the processor multiplies it in hardware."""
    compile: bool = False
    """Use torch.compile; pays after its compile time (about a minute)."""
    evaluate_every: PositiveInt = 100
    """Steps between evaluations on the validation split."""
    evaluate_tokens: PositiveInt = 16_384
    """Tokens of the validation split, always the same, that such an evaluation scores at most."""
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
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup ({self.warmup:g}) and decay ({self.decay:g}) are shares of one run and exceed it"
            )
        unbounded = self.minutes is None and self.steps is None and self.tokens is None
        if unbounded and (self.schedule != "constant" or self.warmup):
            raise ValueError(
                "patience alone does not say how long the run will be, so nothing can be a share of it: "
                "set minutes, steps or tokens too, or schedule: constant and warmup: 0"
            )
        return self


class PretrainConfig(Section):
    """What a pretrained model depends on beside its tokens: its shape and its training."""

    model: ModelConfig
    train: TrainConfig
