"""Decides what an engine computes in its next step; knows requests and counts, no tensors.

A step decodes one token of every running sequence and prefills at most a fixed number of prompt tokens, so
that a long prompt does not hold up the others. Requests join and leave between steps. Waiting requests are
admitted by priority, and within one priority fairly among tenants (`platen.engines.batching.fairness`).
"""

from __future__ import annotations

from collections import deque

from platen.engines.batching.fairness import TokenCounters
from platen.engines.batching.runner import Chunk, Runner
from platen.engines.batching.sequence import Sequence

MAX_OVERTAKEN = 16
"""Requests of higher priority that may be admitted before a waiting one of lower priority."""
MAX_SKIPS = 16
"""Others that may be admitted before a request that does not fit yet; then all wait until it does."""


class Scheduler:
    """Waiting, prefilling and decoding requests over one runner."""

    def __init__(
        self, runner: Runner, *, max_concurrent: int, prefill_chunk: int = 512, draft_tokens: int = 0
    ) -> None:
        """Draft tokens are proposed while the padded batch has at most `draft_tokens` of them."""
        self._runner = runner
        self._draft_tokens = draft_tokens
        self.max_concurrent = max_concurrent
        self.prefill_chunk = prefill_chunk
        self.waiting: list[Sequence] = []
        self.prefilling: deque[Sequence] = deque()
        self.decoding: list[Sequence] = []
        self._counters = TokenCounters()
        self._overtaken: dict[int, int] = {}
        """By waiting priority: how many of higher priority were admitted since one of its own."""
        self._no_room: set[Sequence] = set()
        """Those that did not fit when last tried; a request that ends clears it."""

    @property
    def active(self) -> int:
        """Requests that hold a slot."""
        return len(self.prefilling) + len(self.decoding)

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.prefilling or self.decoding)

    def add(self, sequence: Sequence) -> None:
        self._counters.arrive(sequence.request.tenant, (other.request.tenant for other in self.waiting))
        self.waiting.append(sequence)

    def plan(self) -> list[Chunk]:
        """The next step: one token of each decoding request, then chunks of prompts."""
        drafts = self._drafts()
        chunks = [
            Chunk(s, len(s.tokens) - 1, len(s.tokens), "last", drafts.get(s, ())) for s in self.decoding
        ]
        budget = self.prefill_chunk
        for sequence in self.prefilling:
            if budget <= 0:
                break
            budget -= self._add_chunk(sequence, chunks)
        while budget > 0 and (admitted := self._admit_next()) is not None:
            budget -= self._add_chunk(admitted, chunks)
        return chunks

    def _drafts(self) -> dict[Sequence, tuple[int, ...]]:
        """Draft tokens of the decoding requests, cut until at most half of the padded batch is padding."""
        rows = len(self.decoding)
        most = self._draft_tokens // rows - 1 if rows else 0
        if most <= 0:
            return {}
        drafts = {sequence: sequence.draft_tokens(most) for sequence in self.decoding}
        length = max(map(len, drafts.values()))
        while 2 * sum(min(len(draft), length) for draft in drafts.values()) < rows * length:
            length -= 1
        return {sequence: draft[:length] for sequence, draft in drafts.items()}

    def _add_chunk(self, sequence: Sequence, chunks: list[Chunk]) -> int:
        """Add the next chunk of a prompt; returns its number of tokens.

        Chunks end at multiples of `prefill_chunk` whatever else runs, so a prompt is always computed in the
        same chunks.
        """
        start = sequence.computed
        stop = min((start // self.prefill_chunk + 1) * self.prefill_chunk, sequence.prompt_length)
        if sequence.request.prompt_logprobs is not None:
            chunks.append(Chunk(sequence, start, stop, "all"))
        else:
            chunks.append(Chunk(sequence, start, stop, "last" if stop == sequence.prompt_length else "none"))
        return stop - start

    def _admit_next(self) -> Sequence | None:
        """Admit the first in turn that fits; those before it are skipped once more."""
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
        """Waiting requests, the next one first; equal ones in the order of arrival."""
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
        self._counters.prefilled(sequence.request.tenant, sequence.prompt_length - reused)
        sequence.admit(reused)
        self.prefilling.append(sequence)
        return True

    def _leave_queue(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        self._no_room.discard(sequence)
        self._counters.leave(sequence.request.tenant)

    def computed(self, chunk: Chunk) -> None:
        """Note that a chunk is computed; after the last chunk of its prompt a sequence decodes."""
        sequence = chunk.sequence
        sequence.computed = chunk.stop
        if not chunk.decodes and chunk.stop == sequence.prompt_length:
            self.prefilling.remove(sequence)
            self.decoding.append(sequence)
        if chunk.stop == len(sequence.tokens) and sequence.max_new_tokens:
            self._counters.decoded(sequence.request.tenant)

    def accepted(self, sequence: Sequence) -> None:
        """Note that the next draft token of the chunk just computed is accepted: it is in the cache."""
        sequence.computed += 1
        self._counters.decoded(sequence.request.tenant)

    def remove(self, sequence: Sequence) -> None:
        """Remove a request, whatever its state."""
        if sequence in self.waiting:
            self._leave_queue(sequence)
        else:
            (self.decoding if sequence in self.decoding else self.prefilling).remove(sequence)
            self._runner.release(sequence)
            self._no_room.clear()
        if self.idle:
            self._counters.forget()

    def waiting_longer_than(self, seconds: float) -> list[Sequence]:
        return [s for s in self.waiting if s.waited > seconds]

    def cancelled(self) -> list[Sequence]:
        return [s for s in self.everyone() if s.cancelled]

    def everyone(self) -> list[Sequence]:
        return [*self.decoding, *self.prefilling, *self.waiting]
