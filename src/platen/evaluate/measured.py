"""What has been measured of a model on a split; metrics and the report are taken from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platen.evaluate.perplexity import TextLoss, bits_per_byte
from platen.evaluate.samples import Sample
from platen.evaluate.subject import DocumentSpan, SplitText
from platen.tokens.tokenizer import Tokenizer

_LISTED = 5


@dataclass(frozen=True)
class Spread:
    """Percentiles of a quantity; `count` values were measured."""

    count: int
    p05: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Spread:
        p05, p50, p90, p99 = (float(p) for p in np.percentile(values.astype(np.float64), (5, 50, 90, 99)))
        return cls(len(values), p05, p50, p90, p99)


@dataclass(frozen=True)
class DocumentScore:
    id: str
    tokens: int
    bytes: int
    bits_per_byte: float


@dataclass(frozen=True)
class Measured:
    """`positions` (context,) are mean losses in nats by tokens to the left; `samples` continue prompts."""

    score: TextLoss
    text: SplitText
    positions: NDArray[np.float64]
    samples: tuple[Sample, ...]
    tokenizer: Tokenizer
    context: int
    parameters: int

    @cached_property
    def token_loss(self) -> Spread:
        return Spread.of(self.score.nll)

    @cached_property
    def windows(self) -> NDArray[np.float32]:
        """Mean losses of successive windows."""
        return window_losses(self.score, self.context)

    @cached_property
    def documents(self) -> list[DocumentScore]:
        return score_documents(self.score, self.text.documents)

    @cached_property
    def document_bits_per_byte(self) -> Spread:
        return Spread.of(np.array([document.bits_per_byte for document in self.documents]))


def window_losses(score: TextLoss, width: int) -> NDArray[np.float32]:
    """Mean loss of each successive piece of `width` tokens; a shorter last one counts when it is all."""
    whole = score.tokens // width
    pieces = score.nll[: whole * width].reshape(whole, width) if whole else score.nll[None]
    means: NDArray[np.float32] = pieces.mean(axis=1)
    return means


def score_documents(score: TextLoss, documents: Sequence[DocumentSpan]) -> list[DocumentScore]:
    """Bits per byte of each document, its end mark included. Documents without bytes have none."""
    # Token t's loss is nll[t - 1]; a cumulative sum with a leading zero makes spans differences.
    sums = np.concatenate(([0.0, 0.0], np.cumsum(score.nll, dtype=np.float64)))
    return [
        DocumentScore(d.id, d.stop - d.start, d.bytes, bits_per_byte(sums[d.stop] - sums[d.start], d.bytes))
        for d in documents
        if d.bytes
    ]


def extremes(scores: Sequence[DocumentScore]) -> tuple[tuple[DocumentScore, ...], tuple[DocumentScore, ...]]:
    """The hardest and the easiest documents, five of each at most, none in both."""
    ordered = sorted(scores, key=lambda score: (-score.bits_per_byte, score.id))
    listed = min(_LISTED, len(ordered) // 2)
    return tuple(ordered[:listed]), tuple(reversed(ordered[len(ordered) - listed :]))
