"""Multinomial naive Bayes: which label a text has, from how often each label's texts use its words.

A label's share of the texts times the probability of every word under it, words taken as independent and
smoothed by adding `alpha`. Words never seen in training say nothing. One pass fits any number of labels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from platen.core.errors import BundleError, DataError
from platen.models.classic.words import UNKNOWN, Vocabulary, words

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class NaiveBayes:
    """`log_prior` (L,) and `log_likelihood` (L, V) in nats, L labels and V ids of the vocabulary."""

    labels: tuple[str, ...]
    vocabulary: Vocabulary
    log_prior: Matrix
    log_likelihood: Matrix

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Sequence[str], *, alpha: float = 1.0) -> NaiveBayes:
        """Count. Raises DataError when all texts have one label: there is nothing to tell apart."""
        names = tuple(sorted(set(labels)))
        if len(names) < 2:
            only = f"the one label {names[0]!r}" if names else "no text"
            raise DataError(f"a classifier can't learn from {only}", hint="Give texts of two labels or more.")
        by_label: dict[str, Counter[str]] = {name: Counter() for name in names}
        for text, label in zip(texts, labels, strict=True):
            by_label[label].update(words(text))
        vocabulary = Vocabulary.of(sum(by_label.values(), Counter[str]()))
        counts = np.zeros((len(names), len(vocabulary)))
        for row, name in zip(counts, names, strict=True):
            row[vocabulary.ids(list(by_label[name]))] = list(by_label[name].values())
        known = counts[:, UNKNOWN + 1 :]
        smoothed = np.log(known + alpha) - np.log(known.sum(axis=1, keepdims=True) + alpha * known.shape[1])
        share = Counter(labels)
        log_prior = np.log([share[name] / len(labels) for name in names])
        silent = np.zeros((len(names), UNKNOWN + 1))
        return cls(names, vocabulary, log_prior, np.concatenate([silent, smoothed], axis=1))

    def probabilities(self, texts: Sequence[str]) -> Matrix:
        """(N, L): how likely each label is, for each text."""
        scores = np.stack([self._score(text) for text in texts]) if texts else np.zeros((0, len(self.labels)))
        scores -= scores.max(axis=1, keepdims=True, initial=-np.inf)
        likely = np.exp(scores)
        shares: Matrix = likely / likely.sum(axis=1, keepdims=True)
        return shares

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text."""
        return [self.labels[best] for best in self.probabilities(texts).argmax(axis=1)]

    def _score(self, text: str) -> Matrix:
        result: Matrix = self.log_prior + self.log_likelihood[:, self.vocabulary.ids(words(text))].sum(axis=1)
        return result

    def save(self, folder: Path) -> None:
        """Write `classifier.json`, `model.safetensors` and the vocabulary into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        about = {"kind": "naive_bayes", "labels": self.labels}
        (folder / "classifier.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
        tensors = {"log_prior": self.log_prior, "log_likelihood": self.log_likelihood}
        save_file(tensors, folder / "model.safetensors")
        self.vocabulary.save(folder)

    @classmethod
    def load(cls, folder: Path) -> NaiveBayes:
        """Open what `save` wrote. Raises BundleError when it is damaged or something else."""
        try:
            about = json.loads((folder / "classifier.json").read_text("utf-8"))
            if about["kind"] != "naive_bayes":
                raise ValueError(f"it is a {about['kind']} classifier")
            tensors = load_file(folder / "model.safetensors")
            vocabulary = Vocabulary.load(folder)
            return cls(tuple(about["labels"]), vocabulary, tensors["log_prior"], tensors["log_likelihood"])
        except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
            raise BundleError(
                f"{folder} holds no naive Bayes classifier: {error}", hint="Fit and save it again."
            ) from None
