"""N-gram language models over words: maximum likelihood, Laplace, Katz back-off, Kneser-Ney; any order.

Each is fitted on sentences (sequences of words), saved as a folder of memory-mapped arrays and asked for
probabilities, perplexity or text:

    model = KneserNey.fit([words(s) for s in sentences(text)], order=5)
    model.save(folder)
    KneserNey.load(folder).perplexity(words("To be or not to be."))
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import DataError
from platen.core.files import replaced_folder
from platen.models.classic import ngram_counts
from platen.models.classic.ngram_counts import NgramCounts
from platen.models.classic.ngram_table import NgramTable
from platen.models.classic.words import END, START, UNKNOWN, Vocabulary

MODEL_FILE = "ngram.json"
ESTIMATES: dict[str, Callable[[NgramCounts], NgramTable]] = {
    "mle": ngram_counts.maximum_likelihood,
    "laplace": ngram_counts.laplace,
    "backoff": ngram_counts.back_off,
    "kneser_ney": ngram_counts.kneser_ney,
}


class NgramModel:
    """A fitted model of one smoothing; its subclasses are the smoothings. Safe to share between threads."""

    smoothing: ClassVar[str]

    def __init__(self, vocabulary: Vocabulary, table: NgramTable) -> None:
        self.vocabulary = vocabulary
        self.table = table

    @classmethod
    def fit(cls, sentences: Sequence[Sequence[str]], *, order: int = 3, min_count: int = 1) -> Self:
        """Count and smooth. Words that occur less than `min_count` times become `<unk>`.

        Raises ValueError for an order below 1, DataError without any word.
        """
        counts = Counter(word for sentence in sentences for word in sentence)
        if not counts:
            raise DataError("there is no word to count n-grams of", hint="Give a text.")
        vocabulary = Vocabulary.of(counts, min_count)
        ids = (vocabulary.ids(sentence) for sentence in sentences)
        return cls(vocabulary, ESTIMATES[cls.smoothing](NgramCounts.of(ids, len(vocabulary), order)))

    @property
    def order(self) -> int:
        return self.table.order

    def score(self, word: str, context: Sequence[str] = ()) -> float:
        """The probability of a word or `</s>` after a context, of which the last order - 1 words count."""
        before = self._ids(context)
        return float(2 ** self.table.log2_scores(np.array(self._ids([word])), before)[0])

    def log2_scores(self, tokens: Sequence[str]) -> NDArray[np.float64]:
        """log2 of the probability of each word of a sentence, and last of its end: one more than words."""
        return self.table.log2_scores(np.append(self.vocabulary.ids(tokens), END))

    def entropy(self, tokens: Sequence[str]) -> float:
        """Bits a word of a sentence, its end counted as one. Infinite for what the model holds impossible."""
        return float(-self.log2_scores(tokens).mean())

    def perplexity(self, tokens: Sequence[str]) -> float:
        """2 to the entropy: among how many equally likely words the model seems to choose."""
        return float(np.exp2(self.entropy(tokens)))

    def text_perplexity(self, sentences: Iterable[Sequence[str]]) -> float:
        """The perplexity of several sentences as one text, of which there must be one.

        A word that the vocabulary lacks counts as no likelier than its rarest word: `<unk>` stands for many,
        and a text of nothing but unknown words would otherwise be the likeliest of all.
        """
        start = [START] * (self.order - 1)
        row = np.concatenate(
            [piece for words in sentences for piece in (start, self.vocabulary.ids(words), [END])]
        ).astype(np.int64)
        scores = self.table.log2_scores(row, ())
        scores = np.where(row == UNKNOWN, np.minimum(scores, self._rarest), scores)
        return float(np.exp2(-scores[row != START].mean()))

    @cached_property
    def _rarest(self) -> float:
        """log2 of the least probability that a word has by itself."""
        return float(np.log2(self.table.levels[0].probability[END:].min()))

    def sample(self, count: int, context: Sequence[str] = (), *, seed: int = 0) -> list[str]:
        """Up to `count` words after a context, fewer where the sentence ends. The same seed, the same words.

        Without a context it begins a sentence.
        """
        start = self._ids(context) if context else [0] * (self.order - 1)
        drawn = self.table.sample(count, start, np.random.default_rng(seed))
        return [self.vocabulary.word(id) for id in drawn if id != END]

    def _ids(self, tokens: Sequence[str]) -> list[int]:
        special = {"<s>": 0, "</s>": END}
        return [special[token] if token in special else self.vocabulary.id(token) for token in tokens]

    def save(self, folder: Path) -> None:
        """Write the model as a folder; one that is there is replaced once the new one is complete."""
        about = {
            "schema_version": 1,
            "smoothing": self.smoothing,
            "order": self.order,
            "vocab_size": len(self.vocabulary),
            "shorter": self.table.shorter,
            "base": self.table.base,
        }
        with replaced_folder(folder, MODEL_FILE) as new:
            self.vocabulary.save(new)
            self.table.save(new)
            (new / MODEL_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Map a saved model. Raises DataError when it is missing, damaged or of another smoothing."""
        path = Path(folder)
        try:
            about = json.loads((path / MODEL_FILE).read_text("utf-8"))
            smoothing = about["smoothing"]
            vocabulary = Vocabulary.load(path)
            table = NgramTable.load(path, len(vocabulary), about["order"], about["shorter"], about["base"])
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{path} holds no n-gram model that can be opened: {error}",
                hint="Make one with `platen baselines ngram CORPUS --out FOLDER`.",
            ) from None
        if smoothing != cls.smoothing:
            raise DataError(
                f"{path} is a {smoothing} model, not {cls.smoothing}", hint="Fit one of this smoothing."
            )
        return cls(vocabulary, table)


class MaximumLikelihood(NgramModel):
    """Shares of the counts; what was not seen is impossible."""

    smoothing = "mle"


class Laplace(NgramModel):
    """Every count is one more than it was."""

    smoothing = "laplace"


class BackOff(NgramModel):
    """Katz's back-off with absolute discounts."""

    smoothing = "backoff"


class KneserNey(NgramModel):
    """Interpolated modified Kneser-Ney: the best of the four, and the one to filter text with."""

    smoothing = "kneser_ney"


SMOOTHINGS: dict[str, type[NgramModel]] = {
    model.smoothing: model for model in (MaximumLikelihood, Laplace, BackOff, KneserNey)
}
