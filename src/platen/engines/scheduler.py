"""Decides what an engine computes in its next step; knows requests and counts, no tensors.

Requests wait in order. A step gives every writing request one token and beside that reads at most a fixed
number of prompt tokens, so that a long prompt does not hold up those already writing. Requests join and
leave between steps.
"""

from __future__ import annotations

from collections import deque

from platen.engines.runner import Part, Runner
from platen.engines.sequence import Sequence


class Scheduler:
    """Waiting, reading and writing requests over one runner."""

    def __init__(self, runner: Runner, *, max_concurrent: int, prefill_chunk: int = 512) -> None:
        self._runner = runner
        self.max_concurrent = max_concurrent
        self.prefill_chunk = prefill_chunk
        self.waiting: deque[Sequence] = deque()
        self.reading: deque[Sequence] = deque()
        self.writing: list[Sequence] = []

    @property
    def active(self) -> int:
        """Requests that hold a place: reading or writing."""
        return len(self.reading) + len(self.writing)

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.reading or self.writing)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def plan(self) -> list[Part]:
        """The next step: one token of each writing request, then pieces of prompts."""
        parts = [Part(s, len(s.tokens) - 1, len(s.tokens), "last") for s in self.writing]
        budget = self.prefill_chunk
        for sequence in self.reading:
            if budget <= 0:
                break
            budget -= self._read(sequence, parts)
        while budget > 0 and (admitted := self._admit()) is not None:
            budget -= self._read(admitted, parts)
        return parts

    def _read(self, sequence: Sequence, parts: list[Part]) -> int:
        """Add the next piece of a prompt; returns its tokens.

        Pieces end at multiples of `prefill_chunk` whatever else is going on, so that a prompt is always
        computed in the same pieces.
        """
        start = sequence.computed
        stop = min((start // self.prefill_chunk + 1) * self.prefill_chunk, sequence.prompt_length)
        if sequence.request.prompt_logprobs is not None:
            parts.append(Part(sequence, start, stop, "all"))
        else:
            parts.append(Part(sequence, start, stop, "last" if stop == sequence.prompt_length else "none"))
        return stop - start

    def _admit(self) -> Sequence | None:
        if not self.waiting or self.active >= self.max_concurrent:
            return None
        sequence = self.waiting[0]
        reused = self._runner.admit(sequence, reuse=sequence.request.prompt_logprobs is None)
        if reused is None:
            return None
        self.waiting.popleft()
        sequence.admit(reused)
        self.reading.append(sequence)
        return sequence

    def computed(self, part: Part) -> None:
        """Note that `part` is computed; after the last piece of its prompt a sequence writes."""
        sequence = part.sequence
        sequence.computed = part.stop
        if not part.writes and part.stop == sequence.prompt_length:
            self.reading.remove(sequence)
            self.writing.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a request out, wherever it is."""
        if sequence in self.writing:
            self.writing.remove(sequence)
        elif sequence in self.reading:
            self.reading.remove(sequence)
        else:
            self.waiting.remove(sequence)
            return
        self._runner.release(sequence)

    def cancelled(self) -> list[Sequence]:
        return [s for s in self.everyone() if s.cancelled]

    def everyone(self) -> list[Sequence]:
        return [*self.writing, *self.reading, *self.waiting]
