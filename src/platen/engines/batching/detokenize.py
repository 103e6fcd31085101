"""Turns a request's token ids into text that is safe to show: whole characters, stop strings removed.

Text that may still become a stop string is held back until it is certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Detokenizer(Protocol):
    """Token ids in, whole Unicode characters out; bytes of an unfinished character are kept back."""

    def show(self, ids: Iterable[int]) -> None:
        """From now on give the names of these special tokens as text."""
        ...

    def push(self, ids: Iterable[int]) -> str: ...

    def finish(self) -> str:
        """What is left: an unfinished character becomes U+FFFD."""
        ...


@dataclass(frozen=True)
class StopResult:
    """Text that may be shown now, and whether a stop string ended it."""

    text: str
    stopped: bool


class StopFilter:
    """Cuts text at the first stop string to be completed, wherever the pieces are divided.

    When two stop strings are completed by the same character the longer one is cut away whole.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(s for s in stop if s)
        self._held = ""

    def push(self, piece: str) -> StopResult:
        """Add text; returns what is now certain. After `stopped` nothing more may be pushed."""
        text = self._held + piece
        match = self._first_match(text)
        if match is not None:
            self._held = ""
            return StopResult(text[:match], stopped=True)
        certain = len(text) - self._possible_beginning(text)
        self._held = text[certain:]
        return StopResult(text[:certain], stopped=False)

    def finish(self) -> str:
        """The held-back text, once nothing more will come."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> int | None:
        found = [(at + len(s), at) for s in self._stop if (at := text.find(s)) >= 0]
        return min(found)[1] if found else None

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(s) - 1 for s in self._stop), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(s.startswith(text[-length:]) for s in self._stop):
                return length
        return 0


class TextAssembler:
    """A request's way from token ids to text: detokenizer, then stop filter."""

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str], *, shown: Sequence[int] = ()) -> None:
        """`shown` are special tokens whose names are text here."""
        if shown:
            detokenizer.show(shown)
        self._detokenizer = detokenizer
        self._filter = StopFilter(stop)

    def push(self, token_id: int) -> StopResult:
        return self._filter.push(self._detokenizer.push([token_id]))

    def finish(self) -> StopResult:
        """What was held back, at the end of the tokens."""
        last = self._filter.push(self._detokenizer.finish())
        return last if last.stopped else StopResult(last.text + self._filter.finish(), stopped=False)
