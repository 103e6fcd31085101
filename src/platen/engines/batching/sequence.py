"""One request on its way through a batching engine."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from platen.engines.batching.detokenize import TextAssembler
from platen.engines.batching.draft import Draft
from platen.engines.batching.grammar import Matcher
from platen.engines.batching.sampling import RandomStream, Row
from platen.engines.protocol import GenerationRequest, Timings

if TYPE_CHECKING:
    from platen.models.adapter import Adapter


UNSAID_TOKENS = 256
"""Tokens reserved at first for a response whose request has no max_tokens."""


@dataclass(eq=False)
class Sequence:
    """A request's tokens so far, how many of them are in the cache, and what its next choice depends on.

    `end_ids` are the tokens that end it; they can't be chosen before `min_tokens`. It keeps its `adapter`,
    whatever is loaded under that name meanwhile.
    """

    request: GenerationRequest
    text: TextAssembler
    random: RandomStream
    max_new_tokens: int
    end_ids: frozenset[int] = frozenset()
    matcher: Matcher | None = None
    adapter: Adapter | None = None
    draft: Draft | None = None
    tokens: list[int] = field(init=False)
    reserved: int = field(init=False)
    """Tokens that the cache has room for: prompt and `max_tokens`, or the prompt and some more."""
    computed: int = 0
    reused: int = 0
    cancelled: bool = False
    ended: bool = False
    """Its last event is sent."""
    skips: int = 0
    """How many were admitted before this one, because it did not fit."""
    counts: Counter[int] = field(default_factory=Counter)
    _arrived: float = field(default_factory=time.monotonic)
    _admitted: float | None = None
    _first: float | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_ids)
        unsaid = self.request.sampling.max_tokens is None
        self.reserved = self.prompt_length + min(
            self.max_new_tokens, UNSAID_TOKENS if unsaid else self.max_new_tokens
        )

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def wants_room(self) -> int | None:
        """Tokens to reserve before the next step, for twice the response; None: enough are reserved."""
        whole = self.prompt_length + self.max_new_tokens
        if self.reserved == whole or len(self.tokens) < self.reserved:
            return None
        return min(whole, self.prompt_length + 2 * (self.reserved - self.prompt_length))

    @property
    def waited(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self._arrived

    def admit(self, reused: int) -> None:
        """It has a slot; `reused` tokens of its prompt are in the cache already."""
        self.reused = self.computed = reused
        self._admitted = time.monotonic()

    def add(self, token_id: int) -> None:
        """Take a new token."""
        if self._first is None:
            self._first = time.monotonic()
        self.tokens.append(token_id)
        self.counts[token_id] += 1

    def draft_tokens(self, most: int) -> tuple[int, ...]:
        """Up to `most` draft tokens, none of them the last that may be generated: nothing follows that."""
        if self.draft is None:
            return ()
        return self.draft.propose(self.tokens, min(most, self.reserved - len(self.tokens) - 1))

    def record_acceptance(self, chunk_stop: int, proposed: int) -> int:
        """After a step with draft tokens: how many of the `proposed` ones were accepted."""
        right = self.computed - chunk_stop
        if self.draft is not None:
            self.draft.record_acceptance(proposed, right)
        return right

    def row(self) -> Row:
        """What the sampler needs to choose the next token; draws the next random number."""
        params = self.request.sampling
        held_back = self.generated < params.min_tokens
        penalised = params.repetition_penalty != 1
        return Row(
            params,
            self.random.uniform() if params.temperature > 0 else 0.0,
            counts=self.counts,
            prompt=self.request.prompt_ids if penalised else (),
            banned=tuple(self.end_ids) if held_back else (),
            matcher=self.matcher,
        )

    def timings(self) -> Timings:
        now = time.monotonic()
        admitted = now if self._admitted is None else self._admitted
        first = now if self._first is None else self._first
        return Timings(
            queued=admitted - self._arrived, prefill=max(0.0, first - admitted), decode=now - first
        )
