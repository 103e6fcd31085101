"""How well a causal language model predicts a text: loss, perplexity and bits per byte over all of it.

A long text does not fit the context window, so the window slides: every token but the first is scored
exactly once, and with at least `context - stride` tokens to its left. Bits per byte is what models with
different tokenizers can be compared on; loss and perplexity are per token and cannot.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import DataError
from platen.core.progress import Progress, SilentProgress
from platen.evaluate.scorer import Scorer

LOGITS_BYTES = 128 * 2**20
"""Float32 logits held at once; a wide vocabulary lowers the batch to stay below it."""


@dataclass(frozen=True)
class TextLoss:
    """The losses of one text under one model.

    `nll` is the negative log-likelihood, in nats, of tokens 1, 2, …, n-1 given what the window shows to
    their left. `bytes` is the UTF-8 length of the scored text; `tokens_processed` counts the tokens that
    went through the model, so those seen by two windows count twice.
    """

    nll: NDArray[np.float32]
    bytes: int
    tokens_processed: int
    seconds: float

    @property
    def tokens(self) -> int:
        return len(self.nll)

    @property
    def nats(self) -> float:
        return float(self.nll.sum(dtype=np.float64))

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float:
        return bits_per_byte(self.nats, self.bytes)

    @property
    def tokens_per_second(self) -> float:
        """Tokens through the model per second of wall-clock time."""
        return self.tokens_processed / self.seconds


def bits_per_byte(nats: float, byte_count: int) -> float:
    """Total negative log-likelihood in nats over a text of `byte_count` UTF-8 bytes, in bits per byte."""
    return nats / math.log(2) / byte_count


def perplexity(loss: float) -> float:
    """exp of the loss in nats per token; infinite where that overflows a float."""
    return math.exp(loss) if loss < 709 else math.inf


def sliding_window_nll(
    scorer: Scorer,
    ids: Sequence[int] | NDArray[Any],
    *,
    context: int,
    byte_count: int,
    stride: int | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> TextLoss:
    """Score all of `ids` (n tokens, any integer array or memory map) except the first.

    `context` is the most tokens the model is shown; `stride` (default half of it) is how far the window
    moves: smaller is a fairer score and more work, `context` is no overlap. The last window is moved back
    to end with the text, so no token is ever scored with less context than the stride promises (apart
    from the first window's). `byte_count` is the number of UTF-8 bytes that tokens 1…n-1 stand for.

    Raises DataError when there are fewer than two tokens or a loss is not a number.
    """
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise ValueError(f"stride ({stride}) must be between 1 and context ({context})")
    if len(ids) < 2 or byte_count < 1:
        raise DataError(
            f"The text to score has {len(ids)} token(s); two are needed at least.",
            hint="give the evaluated split more text",
        )
    nll = np.empty(len(ids) - 1, dtype=np.float32)
    width = min(context, len(nll))
    starts, keeps = _windows(len(nll), width, stride)
    started, done, total = time.perf_counter(), 0, 0.0
    reporter = progress or SilentProgress()
    with reporter.task("score", total=len(nll), unit="tokens") as bar:
        for group, keep in _batches(starts, keeps, batch_size):
            losses = _score(scorer, ids, group, width, keep)
            for start, row in zip(group, losses, strict=True):
                nll[start + width - keep : start + width] = row
            done = group[-1] + width
            total += float(losses.sum(dtype=np.float64))
            bar.update(done, note=f"loss {total / done:.3f}")
    if not np.isfinite(nll).all():
        raise DataError(
            f"The model's loss is not a number at token {int(np.argmin(np.isfinite(nll))) + 1} of the text.",
            hint="its weights hold NaN or infinity; train it again with a lower learning rate",
        )
    return TextLoss(nll, byte_count, len(starts) * width, max(time.perf_counter() - started, 1e-9))


def loss_by_position(
    scorer: Scorer,
    ids: Sequence[int] | NDArray[Any],
    *,
    context: int,
    windows: int = 256,
    batch_size: int = 16,
) -> NDArray[np.float64]:
    """Mean loss in nats against the number of tokens to the left: entry i is for i + 1 of them.

    Measured on at most `windows` full windows spread evenly over the text. It falls as far as the model
    makes use of its context. The result has `context` entries, or n-1 for a shorter text.
    """
    width = min(context, len(ids) - 1)
    fitting = (len(ids) - 1) // width
    count = min(windows, fitting)
    starts = [(index * fitting // count) * width for index in range(count)]
    total = np.zeros(width, dtype=np.float64)
    for group, keep in _batches(starts, [width] * count, batch_size):
        total += _score(scorer, ids, group, width, keep).sum(axis=0, dtype=np.float64)
    return total / count


def _windows(targets: int, width: int, stride: int) -> tuple[list[int], list[int]]:
    """Where each window starts and how many of its last targets it scores; the first scores them all."""
    starts, keeps, covered = [0], [width], width
    while covered < targets:
        covered_next = min(covered + stride, targets)
        starts.append(covered_next - width)
        keeps.append(covered_next - covered)
        covered = covered_next
    return starts, keeps


def _batches(starts: list[int], keeps: list[int], batch_size: int) -> Iterator[tuple[list[int], int]]:
    """Runs of neighbouring windows that score equally many targets."""
    begin = 0
    for index in range(1, len(starts) + 1):
        full = index - begin == batch_size
        if index == len(starts) or full or keeps[index] != keeps[begin]:
            yield starts[begin:index], keeps[begin]
            begin = index


def _score(
    scorer: Scorer, ids: Sequence[int] | NDArray[Any], starts: list[int], width: int, keep: int
) -> NDArray[np.float32]:
    """Losses (len(starts), keep) of the last `keep` targets of each window."""
    rows = np.stack([np.asarray(ids[start : start + width + 1], dtype=np.int64) for start in starts])
    return scorer.losses(rows, keep)


def batch_size_for(context: int, vocab_size: int) -> int:
    """How many windows to score together so that their logits stay below LOGITS_BYTES (1 to 32)."""
    return max(1, min(32, LOGITS_BYTES // (4 * context * vocab_size)))
