"""The one protocol between whoever wants tokens and whatever makes them.

A request goes in, an async stream of token events comes out, and it can be cancelled at any time. The
server, the terminal chat and the evaluation know this module and never an engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off.

    `seed` makes a request's text depend on the request alone, whatever shares its batch. `stop` strings
    end the text and are not part of it. `max_tokens` None means: up to the context window.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = 128
    logprobs: int | None = None


@dataclass(frozen=True)
class GenerationRequest:
    request_id: str
    prompt_ids: Sequence[int]
    sampling: SamplingParams = SamplingParams()
    prompt_logprobs: int | None = None
    """Also give the prompt's own log-probabilities, with this many alternatives, in the first event."""


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability (natural log) and the likeliest alternatives (text, logprob)."""

    token_id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True)
class TokenEvent:
    """One step of a stream.

    `text` is always whole Unicode characters; bytes of an unfinished one are held back, and so is text
    that may be the beginning of a stop string. The last event carries `finish_reason` and `usage`.
    """

    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    """One for each prompt token; the first has none. Only when the request asked, and only once."""


@dataclass(frozen=True)
class Capacity:
    """What the engine can take: tokens in one sequence, sequences at once, requests that may wait."""

    context_window: int
    max_concurrent: int
    max_queue: int


@dataclass(frozen=True)
class EngineStats:
    running: int
    waiting: int
    tokens_generated: int
    failed: bool = False
    """It has broken down for good and takes nothing more."""
    extra: dict[str, float] = field(default_factory=dict)


class EngineOverloaded(Exception):
    """The queue is full; try again after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the queue is full")
        self.retry_after = retry_after


class EngineFailed(Exception):
    """The engine broke while working on a request; raised out of the request's stream."""


class Engine(Protocol):
    """Tokens in, tokens out."""

    name: str

    def submit(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        """Queue a request and stream its events. Closing the iterator cancels the request.

        Raises EngineOverloaded at once when the queue is full, ValueError when the prompt does not fit.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Stop a request; its stream ends with finish_reason `cancelled`. Unknown ids are ignored."""
        ...

    def capacity(self) -> Capacity: ...

    def stats(self) -> EngineStats: ...

    async def close(self) -> None:
        """Cancel what runs and free the engine's thread and memory."""
        ...
