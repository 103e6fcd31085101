"""The project file's `instruct`: from what an instruction set is made and what is said of its messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import model_validator

from platen.core.config import Fraction, PathInFile, Section, Text


class PairSource(Section):
    """Finished instruction data."""

    path: Text
    """A JSON or JSONL file, or a glob, relative to the project file."""
    shape: Literal["auto", "instruct", "alpaca", "sharegpt", "openai", "evol-instruct", "self-instruct"] = (
        "auto"
    )
    """How its records are written; `auto` tells by their keys."""


class ActsConfig(Section):
    """Which speech act each message is."""

    by: Literal["rules", "classifier", "llm", "nothing"] = "rules"
    """`rules` needs nothing; `classifier` is trained on `labels`; `llm` asks the model in `bundle`."""
    labels: Text | None = None
    """Labelled examples, JSONL with `text` and `label`, as labelling exports them."""
    bundle: Text | None = None
    """A model's folder, relative to the project file."""
    min_share: Fraction = 0.02
    """An act with a smaller share of the users' messages is reported as a gap."""

    def paths(self) -> Iterator[PathInFile]:
        if self.bundle is not None:
            yield PathInFile("bundle", self.bundle, "bundle", self)

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> ActsConfig:
        if self.by == "classifier" and self.labels is None:
            raise ValueError("by: classifier needs labels")
        if self.by == "llm" and self.bundle is None:
            raise ValueError("by: llm needs bundle")
        return self


class InstructConfig(Section):
    """An instruction set: conversations that end with an answer."""

    sources: tuple[PairSource, ...] = ()
    """Finished pairs."""
    build: tuple[Literal["conversations", "faqs", "documents"], ...] = ()
    """What pairs are made of the data stage's documents: of each the first kind that fits."""
    system: Text | None = None
    """A system message for conversations that have none."""
    acts: ActsConfig = ActsConfig()
    """Speech acts."""
    validation: Fraction = 0.1
    """Share of the finished pairs; those from documents stay in their document's split."""
    test: Fraction = 0.0
    """Likewise."""

    def paths(self) -> Iterator[PathInFile]:
        if self.sources or self.acts.labels is not None:
            yield PathInFile("sources", "", "pairs", self)

    @model_validator(mode="after")
    def _makes_something(self) -> InstructConfig:
        if not self.sources and not self.build:
            raise ValueError("give sources or build; nothing would be made")
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation ({self.validation:g}) and test ({self.test:g}) leave nothing to train on"
            )
        return self
