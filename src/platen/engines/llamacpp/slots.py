"""Where sequences lie in llama.cpp's cache: those that run side by side, texts that are over around them.

llama.cpp computes sequences in one pass only where their places follow each other; weights are read again for
each run of them. So a new sequence goes beside those that run, and the text that lies there moves elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from platen.engines.batching.sequence import Sequence

_WORTH_REUSING = 16
"""Tokens in common below which starting from nothing is as fast."""


@dataclass(frozen=True)
class Admission:
    """A sequence gets `place`; its first `common` tokens are those of the text in `source`, if any.

    What lies in `place` is copied to `moved_to` first, unless that is None.
    """

    slot: int
    source: int | None
    common: int
    moved_to: int | None


class Slots:
    """So many places, each for one sequence."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = set(range(count))
        self._running: dict[Sequence, int] = {}
        self._over: dict[int, list[int]] = {}  # place to tokens; oldest first

    def __getitem__(self, sequence: Sequence) -> int:
        return self._running[sequence]

    def __len__(self) -> int:
        """How many sequences run."""
        return len(self._running)

    def running(self) -> list[Sequence]:
        return list(self._running)

    def held(self) -> list[int]:
        """Those that hold something, of sequences that run or are over."""
        return [*self._running.values(), *self._over]

    def admit(self, sequence: Sequence, *, reuse: bool) -> Admission | None:
        """The place of a new sequence; None when all are running. The oldest text is dropped if need be."""
        if not self._free and not self._over:
            return None
        source, common = self._longest_beginning(sequence.tokens[:-1]) if reuse else (None, 0)
        slot, moved_to = self._room(source)
        self._running[sequence] = slot
        return Admission(slot, source, common, moved_to)

    def release(self, sequence: Sequence) -> None:
        """It is over; its computed tokens can be gone on from."""
        slot = self._running.pop(sequence, None)
        if slot is not None:
            self._over[slot] = sequence.tokens[: sequence.computed]

    def _room(self, source: int | None) -> tuple[int, int | None]:
        """A place beside those that run, and where its text goes: a free place or that of the oldest text."""
        running = set(self._running.values())
        free = sorted(self._free)
        spare = free[0] if free else next((p for p in self._over if p != source), source)
        assert spare is not None
        slot = max((spare, *free, *self._over), key=lambda p: (p - 1 in running) + (p + 1 in running))
        if slot in self._free or slot == spare:
            self._free.discard(slot)
            self._over.pop(slot, None)
            return slot, None
        self._free.discard(spare)
        self._over.pop(spare, None)
        self._over = {spare if p == slot else p: tokens for p, tokens in self._over.items()}
        return slot, spare

    def _longest_beginning(self, tokens: list[int]) -> tuple[int | None, int]:
        """The text that shares the longest beginning with `tokens`, and its length."""
        wanted = np.array(tokens)
        best: tuple[int | None, int] = (None, _WORTH_REUSING - 1)
        for slot, held in self._over.items():
            length = min(len(held), len(tokens))
            differs = np.nonzero(np.array(held[:length]) != wanted[:length])[0]
            common = int(differs[0]) if len(differs) else length
            if common > best[1]:
                best = (slot, common)
        return best if best[0] is not None else (None, 0)
