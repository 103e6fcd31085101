"""Drops documents with words of a list, found whatever their case, accents and look-alike letters, and those
with a passage that a classifier is against."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from datatrove.data import Document
from numpy.typing import NDArray

from platen.core.errors import BundleError, ConfigError
from platen.data.filters.block import Block, Removed
from platen.data.filters.config import ToxicityBlock
from platen.scan.lists import read_words
from platen.scan.words import Words

PASSAGE = 500
"""Characters that a classifier sees at once: about a comment, which most are trained on."""
_PASSAGE = re.compile(rf"\S.{{0,{PASSAGE - 1}}}(?=\s|\Z)|\S.{{0,{PASSAGE - 1}}}", re.DOTALL)


class Classifier(Protocol):
    @property
    def labels(self) -> tuple[str, ...]: ...

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(N, L): how likely each label is, for each text."""
        ...


@cache
def _scanner(words: tuple[str, ...]) -> Words:
    """Kept by the process: an automaton can't travel to workers, its words can."""
    return Words(words)


@cache
def open_classifier(folder: Path) -> Classifier:
    """The classifier in a folder, kept by the process. Raises BundleError, MissingExtraError."""
    from platen.models.folder import read_json

    if (folder / "classifier.json").is_file():
        if read_json(folder / "classifier.json").get("kind") == "naive_bayes":
            from platen.models.classic.naive_bayes import NaiveBayes

            return NaiveBayes.load(folder)
        from platen.models.classic.text_classifier import TextClassifier

        return TextClassifier.load(folder)
    if not (folder / "config.json").is_file():
        raise BundleError(
            f"{folder} holds no text classifier",
            hint="Give a folder that NaiveBayes or TextClassifier saved, or one of transformers.",
        )
    from platen.models.hub_models import Labeller

    return Labeller(folder, "SequenceClassification")


class Toxicity(Block):
    """A document is as bad as its worst passage."""

    def __init__(self, config: ToxicityBlock, directory: Path) -> None:
        """Raises ConfigError for a list that can't be read and a label that the classifier lacks, BundleError
        for a classifier that can't be opened, MissingExtraError."""
        super().__init__(config.block)
        self._words: tuple[str, ...] = ()
        if config.words is not None:
            self._words = tuple(read_words(directory / config.words, "word list"))
        self._most, self._threshold = config.max_matches, config.threshold
        self._classifier: Path | None = None
        if config.classifier is not None:
            self._classifier = directory / config.classifier
            labels = open_classifier(self._classifier).labels
            if config.label not in labels:
                raise ConfigError(
                    f"the classifier {self._classifier} has no label {config.label}",
                    hint=f"Its labels are {', '.join(labels)}.",
                )
            self._label, self._column = config.label, labels.index(config.label)
            self.batch = 32
        self._worst: deque[tuple[float, int]] = deque()
        """The worst passage's score and place, of the documents that were prepared and not applied yet."""

    def prepare(self, documents: Sequence[Document]) -> None:
        if self._classifier is None:
            return
        passages = [[*_PASSAGE.finditer(document.text)] for document in documents]
        flat = [passage.group() for own in passages for passage in own]
        likely = open_classifier(self._classifier).probabilities(flat)[:, self._column]
        at = 0
        for own in passages:
            scored = zip(
                likely[at : at + len(own)].tolist(), (passage.start() for passage in own), strict=True
            )
            self._worst.append(max(scored, key=lambda one: one[0], default=(0.0, 0)))
            at += len(own)

    def apply(self, document: Document) -> str | Removed:
        text: str = document.text
        score, place = 0.0, 0
        if self._classifier is not None:
            score, place = self._worst.popleft()
            tenth = min(int(score * 10), 9) / 10
            self.found(f"{self._label} {tenth:.1f}–{tenth + 0.1:.1f}")
        matches = [*_scanner(self._words).matches(text, 0)] if self._words else []
        if matches:
            self.found("words", len(matches))
        if len(matches) > self._most:
            return Removed("words of the list", matches[0].start)
        if self._classifier is not None and score >= self._threshold:
            return Removed(f"{self._label} by the classifier", place)
        return text
