"""The project file's `serve.draft`: speculative decoding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from platen.core.config import PathInFile, Section, Text


class DraftConfig(Section):
    """Speculative decoding: draft tokens, checked several in one step."""

    tokens: Annotated[int, Field(ge=1, le=64)] = 8
    """Most draft tokens of a sequence in a step; fewer after a rejection."""
    match: Annotated[int, Field(ge=1, le=16)] = 3
    """So many last tokens must occur earlier in prompt or response; what followed them is the draft."""
    step_tokens: Annotated[int, Field(ge=2, le=1024)] = 16
    """Most tokens in a step for all sequences, draft tokens among them; a fuller batch gets no drafts."""
    ngram: Text | None = None
    """Folder that `platen baselines draft` made: drafts from a corpus where prompt and response have none."""

    def paths(self) -> Iterator[PathInFile]:
        if self.ngram is not None:
            yield PathInFile("ngram", self.ngram, "draft n-grams", self)

    def located(self, directory: Path) -> DraftConfig:
        """With the path as seen from anywhere; in the file it is relative to its `directory`."""
        ngram = None if self.ngram is None else str(directory / self.ngram)
        return self.model_copy(update={"ngram": ngram})
