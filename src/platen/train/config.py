"""The project file's `train`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from platen.core.config import Fraction, PositiveInt, Section, StepName
from platen.core.devices import DeviceName
from platen.models.config import ModelConfig


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
    device: Annotated[DeviceName, Field(exclude_if=lambda name: name == "auto")] = "auto"
    """cpu, cuda, cuda:N or mps; auto takes a GPU if there is one, of several processes each its own."""
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
    processes: Annotated[int, Field(ge=1, le=1024, exclude=True)] = 1
    """Processes on this machine that share every batch; the model is the same with any number."""

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


class PretrainStep(TrainConfig):
    """Pretraining as one step of several."""

    kind: Literal["pretrain"]
    """Which kind of training: next-token prediction on the whole text."""
    name: StepName
    """What the step is called; its stage is `train.NAME`."""


class PretrainConfig(Section):
    """What a pretrained model depends on beside its tokens: its shape and its training.

    Without `model` training goes on from a model that is there.
    """

    model: ModelConfig | None
    train: TrainConfig
