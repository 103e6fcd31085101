"""An engine that is somewhere else: a service whose /completions takes token ids (vLLM, Platen, OpenAI).

The service must serve a model of the same tokenizer as its user's. It tells texts and not tokens, so events
have no token ids and there are no log-probabilities.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from platen.engines.batching.admission import allowance
from platen.engines.batching.streams import EventStream
from platen.engines.protocol import (
    Capability,
    Capacity,
    EngineFailed,
    EngineOverloaded,
    EngineStats,
    FinishReason,
    GenerationRequest,
    RequestRefused,
    SamplingParams,
    Timings,
    TokenEvent,
    Usage,
)
from platen.engines.remote.config import UpstreamConfig
from platen.engines.remote.events import Lines, choices_of, event_of, usage_of
from platen.engines.remote.upstream import Upstream, UpstreamError
from platen.prompts.structured import Grammar

log = logging.getLogger(__name__)

_OFF = SamplingParams()
_COMMON = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_UNCOMMON = (
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
)
"""Not every service knows these, so they are sent only when they are on."""


@dataclass(eq=False)
class _Open:
    """A request on its way, and when it got so far (seconds of `time.monotonic`)."""

    request: GenerationRequest
    stream: EventStream
    max_tokens: int
    task: asyncio.Task[None] | None = None
    arrived: float = field(default_factory=time.monotonic)
    sent: float | None = None
    first: float | None = None

    def timings(self) -> Timings:
        now = time.monotonic()
        sent = now if self.sent is None else self.sent
        first = now if self.first is None else self.first
        return Timings(sent - self.arrived, first - sent, now - first)


class RemoteEngine:
    """The model at `config`'s service, which has this context window and vocabulary.

    Connections belong to the event loop that submits; another loop gets its own. `on_close` is called when
    the engine is closed.
    """

    name = "remote"
    capabilities: frozenset[Capability] = frozenset()

    def __init__(
        self,
        config: UpstreamConfig,
        *,
        context_window: int,
        vocab_size: int,
        max_queue: int = 0,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """Raises ConfigError without the service's key or certificates."""
        self._config, self._on_close = config, on_close
        self._upstream, self._vocab_size = Upstream(config), vocab_size
        self._capacity = Capacity(context_window, config.max_concurrent, max_queue)
        self._slots = asyncio.Semaphore(config.max_concurrent)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: dict[str, _Open] = {}
        self._generated = 0
        self._closed = False

    def submit(self, request: GenerationRequest) -> EventStream:
        if self._closed:
            raise EngineFailed("the engine is closed")
        window = self._capacity.context_window
        tokens = allowance(request, context_window=window, vocab_size=self._vocab_size)
        if request.sampling.logprobs is not None or request.prompt_logprobs is not None:
            raise RequestRefused("a remote engine gives no log-probabilities", param="logprobs")
        if request.adapter is not None or request.shown:
            raise RequestRefused(
                "a remote engine has neither adapters nor the names of special tokens", param="prompt"
            )
        if request.request_id in self._open:
            raise ValueError(f"request id {request.request_id!r} is in use")
        if len(self._open) >= self._capacity.max_concurrent + self._capacity.max_queue:
            raise EngineOverloaded(1.0)
        self._use_loop(asyncio.get_running_loop())
        opened = _Open(request, EventStream(lambda: self.cancel(request.request_id)), tokens)
        opened.task = asyncio.create_task(self._run(opened))
        self._open[request.request_id] = opened
        return opened.stream

    def _use_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """What was begun in another loop has ended with it: begin anew."""
        if self._loop not in (None, loop):
            self._upstream = Upstream(self._config)
            self._slots = asyncio.Semaphore(self._config.max_concurrent)
            self._open.clear()
        self._loop = loop

    def prepare(self, grammar: Grammar) -> None:
        """The service compiles grammars, if it takes any."""

    def cancel(self, request_id: str) -> None:
        opened = self._open.pop(request_id, None)
        if opened is not None and opened.task is not None:
            opened.task.cancel()
            usage = Usage(len(opened.request.prompt_ids), 0)
            opened.stream.put(TokenEvent(finish_reason="cancelled", usage=usage, timings=opened.timings()))

    def capacity(self) -> Capacity:
        return self._capacity

    def stats(self) -> EngineStats:
        running = sum(opened.sent is not None for opened in self._open.values())
        return EngineStats(running, len(self._open) - running, self._generated)

    async def close(self) -> None:
        already, self._closed = self._closed, True
        for request_id in list(self._open):
            self.cancel(request_id)
        if self._loop is asyncio.get_running_loop():
            await self._upstream.close()
        if not already and self._on_close is not None:
            self._on_close()

    async def _run(self, opened: _Open) -> None:
        try:
            async with self._slots:
                opened.sent = time.monotonic()
                last: TokenEvent | Exception = await self._generate(opened)
        except (UpstreamError, EngineFailed) as error:
            last = EngineFailed(str(error))
        except Exception as error:  # whatever the service sends, its reader gets an end
            log.exception("a request to the upstream '%s' failed", self._upstream.name)
            last = EngineFailed(f"the engine failed: {type(error).__name__}")
        self._open.pop(opened.request.request_id, None)
        opened.stream.put(last)

    async def _generate(self, opened: _Open) -> TokenEvent:
        """Put the texts into the stream as they come; gives the last event."""
        request, upstream = opened.request, self._upstream
        answer = await upstream.post("/completions", orjson.dumps(self._body(request, opened.max_tokens)))
        try:
            if answer.status >= 400 or not answer.streams:
                said = upstream.without_key(answer.body[:300]).decode(errors="replace")
                raise EngineFailed(f"the upstream '{upstream.name}' answered {answer.status}: {said}")
            lines, written, usage = Lines(), 0, None
            reason: FinishReason | None = None
            chunk = answer.body
            while chunk:
                for event in filter(None, map(event_of, self._whole_lines(lines, chunk))):
                    usage = usage_of(event) or usage
                    for choice in choices_of(event):
                        written += 1
                        opened.first = opened.first or time.monotonic()
                        opened.stream.put(TokenEvent(text=str(choice.get("text") or "")))
                        if choice.get("finish_reason"):
                            reason = "length" if choice["finish_reason"] == "length" else "stop"
                chunk = await answer.more()
            if reason is None:
                raise upstream.broke(upstream.cut_off())
            usage = usage or Usage(len(request.prompt_ids), written)
            self._generated += usage.completion_tokens
            return TokenEvent(finish_reason=reason, usage=usage, timings=opened.timings())
        finally:
            answer.close()

    def _whole_lines(self, lines: Lines, chunk: bytes) -> list[bytes]:
        try:
            return lines.push(chunk)
        except ValueError as error:
            raise EngineFailed(f"the upstream '{self._upstream.name}' sends {error}") from None

    def _body(self, request: GenerationRequest, max_tokens: int) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._upstream.config.remote_model,
            "prompt": list(request.prompt_ids),
            "max_tokens": max_tokens,
            "stream": True,
        }
        body |= {name: getattr(sampling, name) for name in _COMMON}
        body |= {
            name: value for name in _UNCOMMON if (value := getattr(sampling, name)) != getattr(_OFF, name)
        }
        body |= {
            # Ours are numbers of 64 bits, OpenAI's have a sign.
            "seed": None if sampling.seed is None else (sampling.seed + 2**63) % 2**64 - 2**63,
            "stop": list(sampling.stop) or None,
            "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
            "response_format": _response_format(sampling.grammar),
            "stream_options": {"include_usage": True} if self._upstream.config.stream_usage else None,
        }
        return {key: value for key, value in body.items() if value is not None}


def _response_format(grammar: Grammar | None) -> dict[str, Any] | None:
    """OpenAI's form for schemas; for the others Platen's own."""
    match grammar:
        case None:
            return None
        case Grammar("json_schema", text):
            schema = {"name": "answer", "schema": json.loads(text)}
            return {"type": "json_schema", "json_schema": schema}
        case Grammar("regex", text):
            return {"type": "regex", "pattern": text}
    return {"type": "grammar", "grammar": grammar.text}
