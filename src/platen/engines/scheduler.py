"""Decides what an engine computes in its next step; knows requests and counts, no tensors.

Requests wait in order. A step reads at most a fixed number of prompt tokens, so that a long prompt does not
hold up those already writing, and then gives every writing request one token. Requests join and leave
between steps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from platen.engines.protocol import GenerationRequest
from platen.engines.sampling import RandomStream
from platen.engines.text import TextAssembler


@dataclass(eq=False)
class Sequence:
    """One request on its way: its tokens so far and how many of them are in the cache."""

    request: GenerationRequest
    text: TextAssembler
    random: RandomStream
    max_new_tokens: int
    tokens: list[int] = field(init=False)
    computed: int = 0
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_ids)

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length


@dataclass(frozen=True)
class PrefillChunk:
    """Part of one prompt to read: tokens [start, stop). `first` and `last` say where in the prompt it is."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def first(self) -> bool:
        return self.start == 0

    @property
    def last(self) -> bool:
        return self.stop == self.sequence.prompt_length


class Scheduler:
    """Waiting, reading (at most one prompt at a time) and writing requests.

    `running` lists the writing ones; their order is the order of the rows in the batch cache.
    """

    def __init__(self, *, max_concurrent: int, prefill_chunk: int = 512) -> None:
        self.max_concurrent = max_concurrent
        self.prefill_chunk = prefill_chunk
        self.waiting: deque[Sequence] = deque()
        self.prefilling: Sequence | None = None
        self.running: list[Sequence] = []

    @property
    def active(self) -> int:
        """Requests that hold a place in the batch: reading or writing."""
        return len(self.running) + (self.prefilling is not None)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def next_prefill(self, tokens_read: int) -> PrefillChunk | None:
        """The next part of a prompt to read in this step, of which `tokens_read` were read already.

        Chunks end at multiples of `prefill_chunk` whatever else is going on, so that a prompt is always
        computed in the same pieces.
        """
        if tokens_read >= self.prefill_chunk:
            return None
        if self.prefilling is None:
            if not self.waiting or len(self.running) >= self.max_concurrent:
                return None
            self.prefilling = self.waiting.popleft()
        sequence = self.prefilling
        stop = min(sequence.computed + self.prefill_chunk, sequence.prompt_length)
        return PrefillChunk(sequence, sequence.computed, stop)

    def prefilled(self, chunk: PrefillChunk) -> None:
        """Note that `chunk` is read; after the last one the sequence writes."""
        chunk.sequence.computed = chunk.stop
        if chunk.last:
            self.prefilling = None
            self.running.append(chunk.sequence)

    def remove(self, sequence: Sequence) -> int | None:
        """Take a request out, wherever it is. Returns the row it had in the batch, if it had one.

        The last running sequence takes over that row.
        """
        if sequence is self.prefilling:
            self.prefilling = None
            return None
        if sequence in self.running:
            row = self.running.index(sequence)
            self.running[row] = self.running[-1]
            self.running.pop()
            return row
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        return None

    def cancelled(self) -> list[Sequence]:
        """Every request that has been asked to stop."""
        return [sequence for sequence in self.everyone() if sequence.cancelled]

    def everyone(self) -> list[Sequence]:
        """All requests that have not ended."""
        prefilling = [] if self.prefilling is None else [self.prefilling]
        return [*self.waiting, *prefilling, *self.running]

    @property
    def idle(self) -> bool:
        return not self.waiting and self.active == 0
