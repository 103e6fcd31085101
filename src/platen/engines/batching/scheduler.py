"""Decides what an engine computes in its next step; knows requests and counts, no tensors.

A step gives every writing request one token and beside that reads at most a fixed number of prompt tokens, so
that a long prompt does not hold up those already writing. Requests join and leave between steps. Those that
wait are let in by class, and within a class fairly among tenants (`platen.engines.batching.fairness`).
"""

from __future__ import annotations

from collections import deque

from platen.engines.batching.fairness import TokenCounters
from platen.engines.batching.runner import Chunk, Runner
from platen.engines.batching.sequence import Sequence

MAX_OVERTAKEN = 16
"""Requests of higher classes that may be let in before one of a class that waits as well."""
MAX_SKIPS = 16
"""Others that may be let in instead of one that there is no room for; then all wait until there is."""


class Scheduler:
    """Waiting, reading and writing requests over one runner."""

    def __init__(
        self, runner: Runner, *, max_concurrent: int, prefill_chunk: int = 512, draft_tokens: int = 0
    ) -> None:
        """Drafts are proposed while all rows, each as long as the longest, have `draft_tokens` at most."""
        self._runner = runner
        self._draft_tokens = draft_tokens
        self.max_concurrent = max_concurrent
        self.prefill_chunk = prefill_chunk
        self.waiting: list[Sequence] = []
        self.reading: deque[Sequence] = deque()
        self.writing: list[Sequence] = []
        self._counters = TokenCounters()
        self._overtaken: dict[int, int] = {}
        """Of each class that waits: how many of higher ones were let in since one of its own."""
        self._no_room: set[Sequence] = set()
        """Tried since a request last gave its room back."""

    @property
    def active(self) -> int:
        """Requests that hold a place: reading or writing."""
        return len(self.reading) + len(self.writing)

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.reading or self.writing)

    def add(self, sequence: Sequence) -> None:
        self._counters.arrive(sequence.request.tenant, (other.request.tenant for other in self.waiting))
        self.waiting.append(sequence)

    def plan(self) -> list[Chunk]:
        """The next step: one token of each writing request, then pieces of prompts."""
        drafts = self._drafts()
        chunks = [Chunk(s, len(s.tokens) - 1, len(s.tokens), "last", drafts.get(s, ())) for s in self.writing]
        budget = self.prefill_chunk
        for sequence in self.reading:
            if budget <= 0:
                break
            budget -= self._read(sequence, chunks)
        while budget > 0 and (admitted := self._admit_next()) is not None:
            budget -= self._read(admitted, chunks)
        return chunks

    def _drafts(self) -> dict[Sequence, tuple[int, ...]]:
        """What the writing requests guess, cut until rows filled up to the longest are half full."""
        rows = len(self.writing)
        most = self._draft_tokens // rows - 1 if rows else 0
        if most <= 0:
            return {}
        drafts = {sequence: sequence.draft_tokens(most) for sequence in self.writing}
        length = max(map(len, drafts.values()))
        while 2 * sum(min(len(draft), length) for draft in drafts.values()) < rows * length:
            length -= 1
        return {sequence: draft[:length] for sequence, draft in drafts.items()}

    def _read(self, sequence: Sequence, chunks: list[Chunk]) -> int:
        """Add the next piece of a prompt; returns its tokens.

        Pieces end at multiples of `prefill_chunk` whatever else is going on, so that a prompt is always
        computed in the same pieces.
        """
        start = sequence.computed
        stop = min((start // self.prefill_chunk + 1) * self.prefill_chunk, sequence.prompt_length)
        if sequence.request.prompt_logprobs is not None:
            chunks.append(Chunk(sequence, start, stop, "all"))
        else:
            chunks.append(Chunk(sequence, start, stop, "last" if stop == sequence.prompt_length else "none"))
        return stop - start

    def _admit_next(self) -> Sequence | None:
        """Admit the first in turn that there is room for; those before it are skipped once more."""
        if not self.waiting or self.active >= self.max_concurrent:
            return None
        skipped: list[Sequence] = []
        for sequence in self._in_turn():
            if self._admit(sequence):
                for other in skipped:
                    other.skips += 1
                return sequence
            if sequence.skips >= MAX_SKIPS:
                return None
            skipped.append(sequence)
        return None

    def _in_turn(self) -> list[Sequence]:
        """Those that wait, the next one first; of equal right, in the order in which they came."""
        return sorted(
            self.waiting,
            key=lambda s: (
                s.skips < MAX_SKIPS,
                self._overtaken.get(s.request.priority, 0) < MAX_OVERTAKEN,
                -s.request.priority,
                self._counters.served(s.request.tenant),
            ),
        )

    def _admit(self, sequence: Sequence) -> bool:
        if sequence in self._no_room:
            return False
        reused = self._runner.admit(sequence, reuse=sequence.request.prompt_logprobs is None)
        if reused is None:
            self._no_room.add(sequence)
            return False
        self._leave_queue(sequence)
        priority = sequence.request.priority
        self._overtaken = {
            waits: 0 if waits == priority else self._overtaken.get(waits, 0) + (waits < priority)
            for waits in {other.request.priority for other in self.waiting}
        }
        self._counters.read(sequence.request.tenant, sequence.prompt_length - reused)
        sequence.admit(reused)
        self.reading.append(sequence)
        return True

    def _leave_queue(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        self._no_room.discard(sequence)
        self._counters.leave(sequence.request.tenant)

    def computed(self, chunk: Chunk) -> None:
        """Note that `part` is computed; after the last piece of its prompt a sequence writes."""
        sequence = chunk.sequence
        sequence.computed = chunk.stop
        if not chunk.writes and chunk.stop == sequence.prompt_length:
            self.reading.remove(sequence)
            self.writing.append(sequence)
        if chunk.stop == len(sequence.tokens) and sequence.max_new_tokens:
            self._counters.wrote(sequence.request.tenant)

    def accepted(self, sequence: Sequence) -> None:
        """Note that the next token of the part just computed was guessed right: it is in the cache."""
        sequence.computed += 1
        self._counters.wrote(sequence.request.tenant)

    def remove(self, sequence: Sequence) -> None:
        """Take a request out, wherever it is."""
        if sequence in self.waiting:
            self._leave_queue(sequence)
        else:
            (self.writing if sequence in self.writing else self.reading).remove(sequence)
            self._runner.release(sequence)
            self._no_room.clear()
        if self.idle:
            self._counters.forget()

    def waiting_longer_than(self, seconds: float) -> list[Sequence]:
        return [s for s in self.waiting if s.waited > seconds]

    def cancelled(self) -> list[Sequence]:
        return [s for s in self.everyone() if s.cancelled]

    def everyone(self) -> list[Sequence]:
        return [*self.writing, *self.reading, *self.waiting]
