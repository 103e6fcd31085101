"""The one protocol between whoever wants tokens and whatever makes them.

A request goes in, an async stream of token events comes out, and it can be cancelled at any time. The
server, the terminal chat and the evaluation know this module and never an engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeGuard

from platen.prompts.structured import Grammar

FinishReason = Literal["stop", "length", "cancelled", "content_filter"]
Capability = Literal["adapters", "draft", "logprobs", "token_ids"]
"""What not every engine can: LoRA adapters over its weights, draft tokens, log-probabilities, and saying
which tokens a text is made of."""


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen; `platen.engines.batching.sampling` defines each filter and penalty.

    `temperature` 0 is greedy. Off are: `top_k` 0, `top_p` 1, `min_p` 0, `typical_p` 1, `repetition_penalty`
    1, `presence_penalty` and `frequency_penalty` 0. `logit_bias` adds to single tokens' logits. `seed` makes
    a request's text depend on the request alone, whatever shares its batch. `stop` strings and the tokens
    `stop_token_ids` end the text and are not part of it. `max_tokens` None means: up to the context window;
    before `min_tokens`, or ever with `ignore_eos`, an end-of-text token does not end it.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    max_tokens: int | None = 128
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    grammar: Grammar | None = None

    def ends(self, eos_ids: Iterable[int]) -> frozenset[int]:
        """The tokens that end a sequence, for a model whose end-of-text tokens are `eos_ids`."""
        return frozenset((*self.stop_token_ids, *(() if self.ignore_eos else eos_ids)))


@dataclass(frozen=True)
class GenerationRequest:
    request_id: str
    prompt_ids: Sequence[int]
    sampling: SamplingParams = SamplingParams()
    prompt_logprobs: int | None = None
    """Also give the prompt's own log-probabilities, with this many alternatives, in the first event."""
    shown: tuple[int, ...] = ()
    """Special tokens whose names are to be part of the text, as what marks a tool call is."""
    adapter: str | None = None
    """The name of a loaded adapter to compute with; None is the model itself."""
    tenant: str = ""
    """For whom it is: tenants share an engine's time fairly."""
    priority: int = 0
    """Its class: the higher goes first."""


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt's, those whose keys and values were still there from an earlier request."""


@dataclass(frozen=True)
class Timings:
    """Where a request's time went, in seconds: queue, prefill, decode."""

    queued: float
    prefill: float
    decode: float


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
    that may be the beginning of a stop string. The last event carries `finish_reason`, `usage`
    and `timings`.
    """

    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    """One for each prompt token; the first has none. Only when the request asked, and only once."""


@dataclass(frozen=True)
class Capacity:
    """What the engine can take: tokens in one sequence, sequences at once, requests that may wait."""

    context_window: int
    max_concurrent: int
    max_queue: int
    kv_bytes: int = 0
    """Memory that keys and values may take; 0 where the engine does not say."""
    longest: int = 0
    """Tokens of the longest sequence that this memory holds; 0 likewise."""


@dataclass(frozen=True)
class EngineStats:
    running: int
    waiting: int
    tokens_generated: int
    failed: bool = False
    """It has broken down for good and takes nothing more."""
    extra: dict[str, float] = field(default_factory=dict)


class EngineOverloaded(Exception):
    """The queue is full, or a request has waited in it too long; try again after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the engine has more to do than it can")
        self.retry_after = retry_after


class RequestRefused(ValueError):
    """This engine can't do what a request asks for; raised when it is submitted.

    `param` is the part of the request that is wrong: `prompt`, `grammar`, or a field of SamplingParams.
    `code` is one of OpenAI's: `context_length_exceeded`, `invalid_grammar` or `invalid_value`.
    """

    def __init__(self, message: str, *, param: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code


class EngineFailed(Exception):
    """The engine broke while working on a request; raised out of the request's stream."""


class Engine(Protocol):
    """Tokens in, tokens out."""

    name: str

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do beyond what every engine does."""
        ...

    def submit(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        """Queue a request and stream its events. Closing the iterator cancels the request.

        Raises EngineOverloaded at once when the queue is full, and out of the stream when the request has
        waited too long; RequestRefused when the prompt does not fit, the grammar is not one or the adapter
        is not loaded.
        """
        ...

    def prepare(self, grammar: Grammar) -> None:
        """Compile a grammar, so that submitting with it is quick; on a thread, for it may take long.

        Raises RequestRefused when it is not one.
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


class AdapterEngine(Engine, Protocol):
    """An engine with the capability `adapters`."""

    def load_adapter(self, name: str, folder: Path) -> str:
        """Let requests choose the adapter in `folder` by `name`; returns the adapter's fingerprint.

        Reads files: on a thread, where streams must not wait. Raises BundleError when it does not fit.
        """
        ...

    def unload_adapter(self, name: str) -> None:
        """Take no more requests for it; what runs with it goes on. Raises KeyError for an unknown name."""
        ...


def takes_adapters(engine: Engine) -> TypeGuard[AdapterEngine]:
    """Whether LoRA adapters can be loaded over the engine's weights."""
    return "adapters" in engine.capabilities
