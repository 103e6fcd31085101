"""Drops documents that a model of clean text finds too unlikely, or too likely, as CCNet does.

CCNet (Wenzek et al. 2020, LREC) scores documents with a Kneser-Ney 5-gram model of Wikipedia and keeps parts
of a corpus by it. Ours counts words, so that its perplexities are higher than those of CCNet's pieces of
words, and are to be compared only with others of the same model.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document

from platen.core.progress import Progress
from platen.data.filters.block import Block, Removed
from platen.data.filters.config import PerplexityBlock
from platen.data.filters.reference import held_out_perplexities, perplexity, reference_model
from platen.models.classic.ngram import KneserNey


class Perplexity(Block):
    """Documents without a word pass. What is found is counted between powers of two, to choose bounds by."""

    def __init__(self, config: PerplexityBlock, directory: Path, progress: Progress) -> None:
        """Raises DataError for a model that can't be opened and a reference that can't be counted."""
        super().__init__(config.block)
        self._least, self._most = config.min_perplexity, config.max_perplexity
        if config.reference is None:
            self._folder = directory / str(config.model)
        else:
            self._folder = reference_model(
                directory, config.reference, held_out=config.by_percentile, progress=progress
            )
        self._model: KneserNey | None = KneserNey.load(self._folder)
        if config.by_percentile:
            known = held_out_perplexities(self._folder)
            if config.max_percentile is not None:
                self._most = float(np.percentile(known, config.max_percentile))
            if config.min_percentile is not None:
                self._least = float(np.percentile(known, config.min_percentile))

    def apply(self, document: Document) -> str | Removed:
        if self._model is None:
            self._model = KneserNey.load(self._folder)
        text: str = document.text
        score = perplexity(self._model, text)
        if score is None:
            return text
        power = 2 ** int(math.log2(score))
        self.found(f"{power:,}–{2 * power - 1:,}")
        if self._most is not None and score > self._most:
            return Removed(f"perplexity above {self._most:,.0f}")
        if self._least is not None and score < self._least:
            return Removed(f"perplexity below {self._least:,.0f}")
        return text

    def __getstate__(self) -> dict[str, Any]:
        """A mapped model does not travel to workers; each maps it itself."""
        return self.__dict__ | {"_model": None}
