"""Which slot of llama.cpp's cache each sequence has: running ones side by side, finished ones around them.

llama.cpp computes sequences in one pass only where their slots are adjacent; weights are read once for each
group of adjacent ones. So a new sequence goes beside running ones, and a finished sequence there moves
elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from platen.engines.batching.sequence import Sequence

_WORTH_REUSING = 16
"""Tokens in common below which starting from nothing is as fast."""


@dataclass(frozen=True)
class Admission:
    """A sequence gets `slot`; its first `common` tokens are those of the sequence in `source`, if any.

    What is in `slot` is copied to `moved_to` first, unless that is None.
    """

    slot: int
    source: int | None
    common: int
    moved_to: int | None


class Slots:
    """So many slots, each for one sequence."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = set(range(count))
        self._running: dict[Sequence, int] = {}
        self._finished: dict[int, list[int]] = {}  # slot to tokens; oldest first

    def __getitem__(self, sequence: Sequence) -> int:
        return self._running[sequence]

    def __len__(self) -> int:
        """How many sequences run."""
        return len(self._running)

    def running(self) -> list[Sequence]:
        return list(self._running)

    def held(self) -> list[int]:
        """Slots of running and finished sequences."""
        return [*self._running.values(), *self._finished]

    def admit(self, sequence: Sequence, *, reuse: bool) -> Admission | None:
        """The slot of a new sequence; None when all are running. It may evict the oldest finished one."""
        if not self._free and not self._finished:
            return None
        source, common = self._longest_prefix(sequence.tokens[:-1]) if reuse else (None, 0)
        slot, moved_to = self._room(source)
        self._running[sequence] = slot
        return Admission(slot, source, common, moved_to)

    def release(self, sequence: Sequence) -> None:
        """It is finished; later sequences can continue from its computed tokens."""
        slot = self._running.pop(sequence, None)
        if slot is not None:
            self._finished[slot] = sequence.tokens[: sequence.computed]

    def _room(self, source: int | None) -> tuple[int, int | None]:
        """A slot beside running ones, and where its content moves: a free or the oldest finished slot."""
        running = set(self._running.values())
        free = sorted(self._free)
        spare = free[0] if free else next((p for p in self._finished if p != source), source)
        assert spare is not None
        slot = max((spare, *free, *self._finished), key=lambda p: (p - 1 in running) + (p + 1 in running))
        if slot in self._free or slot == spare:
            self._free.discard(slot)
            self._finished.pop(slot, None)
            return slot, None
        self._free.discard(spare)
        self._finished.pop(spare, None)
        self._finished = {spare if p == slot else p: tokens for p, tokens in self._finished.items()}
        return slot, spare

    def _longest_prefix(self, tokens: list[int]) -> tuple[int | None, int]:
        """The finished sequence with the longest common prefix with `tokens`, and the prefix' length."""
        wanted = np.array(tokens)
        best: tuple[int | None, int] = (None, _WORTH_REUSING - 1)
        for slot, held in self._finished.items():
            length = min(len(held), len(tokens))
            differs = np.nonzero(np.array(held[:length]) != wanted[:length])[0]
            common = int(differs[0]) if len(differs) else length
            if common > best[1]:
                best = (slot, common)
        return best if best[0] is not None else (None, 0)
