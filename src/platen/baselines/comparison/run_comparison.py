"""Train every model of the ladder on one corpus and measure it: loss in bits per byte, size, speed.

Losses are the same for the same corpus and seed as long as no time limit cuts a training short; speeds are
this machine's. With two files or more, classifiers are compared too, on telling which file a passage is from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from platen.baselines.comparison.corpus import Corpus, Passages, passages
from platen.baselines.comparison.networks import NETWORKS, NetworkOptions, network_log2_scores, train_network
from platen.core.progress import Progress
from platen.models.classic import ngram_counts
from platen.models.classic.naive_bayes import NaiveBayes
from platen.models.classic.ngram_counts import NgramCounts
from platen.models.classic.ngram_table import NgramTable
from platen.models.classic.text_classifier import ClassifierOptions, TextClassifier, train_classifier
from platen.models.classic.words import FIRST_WORD


@dataclass(frozen=True)
class ModelRow:
    """One language model. `bits_per_byte` is None where it holds some of the text impossible, `impossible` of
    its tokens as a share. `numbers` counts parameters, or n-grams; `steps` is None for what is only counted;
    `cut` says that time ended the training."""

    name: str
    bits_per_byte: float | None
    impossible: float
    numbers: int
    size_bytes: int
    train_seconds: float
    train_tokens_per_second: float
    tokens_per_second: float
    steps: int | None = None
    cut: bool = False


@dataclass(frozen=True)
class ClassifierRow:
    """One classifier: its `accuracy` on held-out passages, `train_seconds`, passages/s when it answers.

    `cut` says that time ended the training."""

    name: str
    accuracy: float
    train_seconds: float
    passages_per_second: float
    cut: bool = False


@dataclass(frozen=True)
class Comparison:
    """The rows, the simplest model first; no classifiers for a single file."""

    files: tuple[str, ...]
    train_tokens: int
    scored_tokens: int
    scored_bytes: int
    vocab_size: int
    seed: int
    models: tuple[ModelRow, ...]
    classifiers: tuple[ClassifierRow, ...]


@dataclass(frozen=True)
class _Counting:
    name: str
    order: int
    estimate: Callable[[NgramCounts], NgramTable]


_COUNTED = (
    _Counting("bag of words", 1, ngram_counts.laplace),
    _Counting("Markov chain, order 1", 2, ngram_counts.maximum_likelihood),
    _Counting("bigrams, Laplace", 2, ngram_counts.laplace),
    _Counting("trigrams, back-off", 3, ngram_counts.back_off),
    _Counting("trigrams, Kneser-Ney", 3, ngram_counts.kneser_ney),
    _Counting("5-grams, Kneser-Ney", 5, ngram_counts.kneser_ney),
)
MODELS = (*(model.name for model in _COUNTED), *NETWORKS)


def compare(corpus: Corpus, options: NetworkOptions, progress: Progress) -> Comparison:
    """Train and measure all. `options.seconds` bounds each network's and each classifier's training."""
    rows: list[ModelRow] = []
    with progress.task("models", total=len(MODELS), unit="models") as task:
        for row in _models(corpus, options, progress):
            rows.append(row)
            loss = (
                "impossible text" if row.bits_per_byte is None else f"{row.bits_per_byte:.3f} bits per byte"
            )
            progress.say(f"{row.name}: {loss}")
            task.update(len(rows))
    classifiers = _classifiers(passages(corpus), options, progress) if len(corpus.parts) > 1 else ()
    return Comparison(
        files=tuple(part.name for part in corpus.parts),
        train_tokens=len(corpus.train),
        scored_tokens=len(corpus.held_out) - 1,
        scored_bytes=corpus.scored_bytes,
        vocab_size=corpus.vocab_size,
        seed=options.seed,
        models=tuple(rows),
        classifiers=tuple(classifiers),
    )


def _models(corpus: Corpus, options: NetworkOptions, progress: Progress) -> Iterator[ModelRow]:
    for model in _COUNTED:
        yield _counted(model, corpus)
    for name in NETWORKS:
        network, training = train_network(name, corpus.train, corpus.vocab_size, options, progress)
        started = time.perf_counter()
        scores = network_log2_scores(network, corpus.held_out, options.length)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        row = _row(name, corpus, scores, time.perf_counter() - started, training.seconds)
        yield replace(
            row,
            numbers=parameters,
            size_bytes=4 * parameters,
            train_tokens_per_second=training.tokens / training.seconds,
            steps=training.steps,
            cut=training.cut,
        )


def _counted(model: _Counting, corpus: Corpus) -> ModelRow:
    started = time.perf_counter()
    vocab_size = corpus.vocab_size + FIRST_WORD
    counts = NgramCounts.of([corpus.train + FIRST_WORD], vocab_size, model.order, ends=False)
    table = model.estimate(counts)
    trained = time.perf_counter()
    scores = table.log2_scores(corpus.held_out + FIRST_WORD)[1:]
    row = _row(model.name, corpus, scores, time.perf_counter() - trained, trained - started)
    return replace(row, numbers=table.size(), size_bytes=table.bytes())


def _row(
    name: str,
    corpus: Corpus,
    scores: np.ndarray[tuple[int], np.dtype[np.float64]],
    took: float,
    trained: float,
) -> ModelRow:
    impossible = float(np.isinf(scores).mean())
    return ModelRow(
        name=name,
        bits_per_byte=None if impossible else float(-scores.sum() / corpus.scored_bytes),
        impossible=impossible,
        numbers=0,
        size_bytes=0,
        train_seconds=trained,
        train_tokens_per_second=len(corpus.train) / trained,
        tokens_per_second=len(scores) / took,
    )


class _Majority:
    """Always the commonest label: what any classifier has to beat."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._label = Counter(labels).most_common(1)[0][0]

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [self._label] * len(texts)


def _classifiers(pieces: Passages, options: NetworkOptions, progress: Progress) -> list[ClassifierRow]:
    texts, labels = (list(column) for column in zip(*pieces.train, strict=True))
    asked, answers = (list(column) for column in zip(*pieces.held_out, strict=True))
    rows = []

    def trained(kind: Literal["mlp", "rnn", "lstm"]) -> TextClassifier:
        chosen = ClassifierOptions(
            kind=kind,
            layers=1,
            epochs=5,
            max_words=100,
            steps=options.steps,
            seconds=options.seconds,
            seed=options.seed,
        )
        return train_classifier(texts, labels, chosen, progress)

    for name, fit in (
        ("commonest file", lambda: _Majority(labels)),
        ("naive Bayes", lambda: NaiveBayes.fit(texts, labels)),
        ("MLP on a bag of words", lambda: trained("mlp")),
        ("RNN", lambda: trained("rnn")),
        ("LSTM", lambda: trained("lstm")),
    ):
        started = time.perf_counter()
        model = fit()
        ready = time.perf_counter()
        right = [one == other for one, other in zip(model.predict(asked), answers, strict=True)]
        done = time.perf_counter()
        cut = isinstance(model, TextClassifier) and ready - started >= options.seconds
        rows.append(
            ClassifierRow(name, float(np.mean(right)), ready - started, len(asked) / (done - ready), cut)
        )
        progress.say(f"{name}: {rows[-1].accuracy:.1%} of passages put to their file")
    return rows
