"""The project file's `serve.draft`: speculative decoding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from platen.core.config import PathInFile, Section, Text


class DraftConfig(Section):
    """Speculative decoding: guesses of how a text goes on, checked several in one step."""

    tokens: Annotated[int, Field(ge=1, le=64)] = 8
    """Most tokens guessed for a text in a step; fewer after wrong guesses."""
    match: Annotated[int, Field(ge=1, le=16)] = 3
    """So many last tokens must have come before in prompt or text; what followed them is the guess."""
    step_tokens: Annotated[int, Field(ge=2, le=1024)] = 16
    """Most tokens computed in a step for all texts, guesses among them; a fuller batch is not guessed for."""
    ngram: Text | None = None
    """Folder that `platen baselines draft` made: guesses from a corpus where prompt and text have none."""

    def paths(self) -> Iterator[PathInFile]:
        if self.ngram is not None:
            yield PathInFile("ngram", self.ngram, "draft n-grams", self)

    def located(self, directory: Path) -> DraftConfig:
        """With the path as seen from anywhere; in the file it is relative to its `directory`."""
        ngram = None if self.ngram is None else str(directory / self.ngram)
        return self.model_copy(update={"ngram": ngram})
