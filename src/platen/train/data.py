"""Batches from a packed token file: a flat array of ids on disk, mapped into memory, never read whole.

The file is cut into windows of equal length. Each pass over the data shifts the cuts and shuffles the
windows anew from the seed and the number of the pass, so the position is one integer, any position can be
read directly, and every process of a distributed run can take its own rows of the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from platen.core.errors import TrainingError

IGNORE = -100
"""A target that no loss is taken from."""


@dataclass(frozen=True)
class Batch:
    """`inputs` and `targets`, both (B, T) int64; targets are the inputs moved one to the left."""

    inputs: Tensor
    targets: Tensor


class PackedLoader:
    """Shuffled windows of `sequence_length` tokens and their next tokens."""

    def __init__(
        self,
        tokens: NDArray[np.unsignedinteger],
        *,
        sequence_length: int,
        batch_size: int,
        seed: int,
        ignore_id: int | None = None,
    ) -> None:
        """`ignore_id` is a padding token whose prediction is not trained.

        Raises TrainingError when the tokens do not fill one batch.
        """
        self.tokens = tokens
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.seed = seed
        self.ignore_id = ignore_id
        # Every pass starts up to one window late and needs one more token for the last target.
        self.windows = (len(tokens) - sequence_length) // sequence_length
        if self.windows < batch_size:
            needed = (batch_size + 1) * sequence_length
            raise TrainingError(
                f"The training split has {len(tokens):,} tokens; one step of {batch_size} sequences of "
                f"{sequence_length} tokens needs at least {needed:,}.",
                hint="add text, or lower train.batch_size or train.sequence_length",
            )
        self._pass = -1
        self._starts: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    @property
    def tokens_per_batch(self) -> int:
        return self.batch_size * self.sequence_length

    def passes(self, step: int) -> float:
        """How often the whole split has been seen after `step` batches."""
        return step * self.tokens_per_batch / len(self.tokens)

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """The batch of optimizer step `step` (from 0), or the share of it that process `rank` takes."""
        share = self.batch_size // world_size
        first = step * self.batch_size + rank * share
        rows = np.stack([self._window(index) for index in range(first, first + share)])
        targets = rows[:, 1:]
        if self.ignore_id is not None:
            targets = np.where(targets == self.ignore_id, IGNORE, targets)
        return Batch(torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(targets.copy()))

    def _window(self, index: int) -> NDArray[np.int64]:
        number, place = divmod(index, self.windows)
        if number != self._pass:
            random = np.random.default_rng([self.seed, number])
            shift = int(random.integers(self.sequence_length))
            self._starts = random.permutation(self.windows) * self.sequence_length + shift
            self._pass = number
        start = int(self._starts[place])
        return np.asarray(self.tokens[start : start + self.sequence_length + 1], dtype=np.int64)


def evaluation_batches(
    tokens: NDArray[np.unsignedinteger],
    *,
    sequence_length: int,
    batch_size: int,
    max_tokens: int,
    ignore_id: int | None = None,
) -> list[Batch]:
    """Windows spread evenly over `tokens`, always the same ones, at most `max_tokens` of them (but one).

    Raises TrainingError when there are fewer than two tokens.
    """
    if len(tokens) < 2:
        raise TrainingError(
            f"The validation split has {len(tokens)} token(s); without it no checkpoint can be chosen.",
            hint="raise data.split.validation",
        )
    width = min(sequence_length, len(tokens) - 1)
    fitting = (len(tokens) - 1) // width
    count = max(1, min(fitting, max_tokens // width))
    starts = [index * fitting // count * width for index in range(count)]
    rows = np.stack([np.asarray(tokens[start : start + width + 1], dtype=np.int64) for start in starts])
    targets = rows[:, 1:] if ignore_id is None else np.where(rows[:, 1:] == ignore_id, IGNORE, rows[:, 1:])
    return [
        Batch(
            torch.from_numpy(rows[at : at + batch_size, :-1].copy()),
            torch.from_numpy(targets[at : at + batch_size].copy()),
        )
        for at in range(0, count, batch_size)
    ]
