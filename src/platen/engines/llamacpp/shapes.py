"""How llama.cpp's key/value cache is divided within its budget: how many slots, each for how many tokens."""

from __future__ import annotations

from dataclasses import dataclass

MIN_CELLS = 256
"""llama.cpp rounds a slot up to multiples of this."""
_FIRST_TOKENS = 512


@dataclass(frozen=True)
class CacheShape:
    """`slots` sequences of up to `tokens` tokens each."""

    slots: int
    tokens: int


@dataclass(frozen=True)
class CacheShapes:
    """Shapes of at most `cells` tokens in all, for `max_rows` sequences that run at once.

    Room for a sequence doubles from one shape to the next, so a server makes its cache anew only a few times.
    """

    cells: int
    context_window: int
    max_rows: int

    def first(self) -> CacheShape:
        """The shape to begin with: one slot for each sequence that may run, none for finished ones."""
        tokens = min(_FIRST_TOKENS, self._whole(self.context_window), self._most())
        return CacheShape(max(1, min(self.max_rows, self.cells // tokens)), tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence there can be."""
        return min(self.context_window, self._most())

    def for_longest(self, tokens: int) -> CacheShape:
        """The shape for sequences of up to so many tokens, at most `longest`.

        It has twice the slots that may be in use, for finished sequences, where the budget allows.
        """
        needed = self._whole(tokens)
        room = min(max(_FIRST_TOKENS, 1 << (tokens - 1).bit_length()), self._whole(self.context_window))
        if self.cells // room < self.max_rows:  # doubling would cost slots: no more than is asked for
            room = needed
        return CacheShape(max(1, min(2 * self.max_rows, self.cells // room)), room)

    def longer(self, shape: CacheShape, tokens: int) -> CacheShape | None:
        """As many slots, each for at least so many tokens; None where the budget does not allow that."""
        for room in (min(2 * self._whole(tokens), self._whole(self.context_window)), self._whole(tokens)):
            if shape.slots * room <= self.cells:
                return CacheShape(shape.slots, room)
        return None

    def _whole(self, tokens: int) -> int:
        return -(-tokens // MIN_CELLS) * MIN_CELLS

    def _most(self) -> int:
        return self.cells // MIN_CELLS * MIN_CELLS
