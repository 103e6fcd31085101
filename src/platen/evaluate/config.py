"""The project file's `evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from platen.core.config import PositiveInt, Section, Text
from platen.core.devices import DeviceName


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
    device: Annotated[DeviceName, Field(exclude_if=lambda name: name == "auto")] = "auto"
    """cpu, cuda, cuda:N or mps; auto takes a GPU if there is one."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.8
    """Of the samples; 0 takes the likeliest token each time."""
    metrics: Annotated[tuple[Text, ...], Field(exclude_if=lambda names: not names)] = ()
    """Further metrics in the report, of those that packages add."""


class CompareConfig(Section):
    """What a comparison depends on beside what it compares: the variants, in the project file's order."""

    variants: tuple[str, ...]
