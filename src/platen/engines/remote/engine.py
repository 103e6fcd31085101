"""An engine that is somewhere else: a service whose /completions takes token ids (vLLM, Platen, OpenAI).

The service must serve a model of the same tokenizer as its user's. It tells texts and not tokens, so events
have no token ids and there are no log-probabilities.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson

from platen.engines.batching.streams import EventStream
from platen.engines.protocol import (
    Capacity,
    EngineFailed,
    EngineOverloaded,
    EngineStats,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
    Usage,
)
from platen.engines.remote.events import Lines, choices_of, event_of, usage_of
from platen.engines.remote.upstream import Upstream, UpstreamError
from platen.prompts.structured import Grammar

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


class RemoteEngine:
    """The model of `upstream`, which has a context window of so many tokens."""

    name = "remote"

    def __init__(self, upstream: Upstream, *, context_window: int) -> None:
        self._upstream, self._window = upstream, context_window
        self._running: dict[str, tuple[EventStream, asyncio.Task[None]]] = {}
        self._generated = 0

    def submit(self, request: GenerationRequest) -> EventStream:
        length = len(request.prompt_ids)
        if length >= self._window:
            raise ValueError(f"the prompt has {length} tokens; the context window is {self._window}")
        if request.sampling.logprobs is not None or request.prompt_logprobs is not None:
            raise ValueError("a remote engine gives no log-probabilities")
        if request.adapter is not None or request.shown:
            raise ValueError("a remote engine has neither adapters nor the names of special tokens")
        if len(self._running) >= self.capacity().max_concurrent:
            raise EngineOverloaded(1.0)
        stream = EventStream(lambda: self.cancel(request.request_id))
        task = asyncio.create_task(self._run(request, stream))
        self._running[request.request_id] = stream, task
        return stream

    def prepare(self, grammar: Grammar) -> None:
        """The service compiles grammars, if it takes any."""

    def cancel(self, request_id: str) -> None:
        stream, task = self._running.pop(request_id, (None, None))
        if stream is not None and task is not None:
            task.cancel()
            stream.put(TokenEvent(finish_reason="cancelled"))

    def capacity(self) -> Capacity:
        return Capacity(self._window, self._upstream.config.max_concurrent, 0)

    def stats(self) -> EngineStats:
        return EngineStats(len(self._running), 0, self._generated)

    async def close(self) -> None:
        for request_id in list(self._running):
            self.cancel(request_id)
        await self._upstream.close()

    async def _run(self, request: GenerationRequest, stream: EventStream) -> None:
        try:
            stream.put(await self._generate(request, stream))
        except (UpstreamError, EngineFailed) as error:
            stream.put(EngineFailed(str(error)))
        finally:
            self._running.pop(request.request_id, None)

    async def _generate(self, request: GenerationRequest, stream: EventStream) -> TokenEvent:
        """Put the texts into `stream` as they come; gives the last event."""
        answer = await self._upstream.post("/completions", orjson.dumps(self._body(request)))
        try:
            if answer.status >= 400 or not answer.streams:
                said = self._upstream.without_key(answer.body[:300]).decode(errors="replace")
                raise EngineFailed(f"the upstream '{self._upstream.name}' answered {answer.status}: {said}")
            lines, written, usage = Lines(), 0, None
            reason: FinishReason | None = None
            piece = answer.body
            while piece:
                for event in filter(None, map(event_of, lines.push(piece))):
                    usage = usage_of(event) or usage
                    for choice in choices_of(event):
                        written += 1
                        stream.put(TokenEvent(text=str(choice.get("text") or "")))
                        if choice.get("finish_reason"):
                            reason = "length" if choice["finish_reason"] == "length" else "stop"
                piece = await answer.more()
            if reason is None:
                raise self._upstream.broke(self._upstream.cut_off())
            usage = usage or Usage(len(request.prompt_ids), written)
            self._generated += usage.completion_tokens
            return TokenEvent(finish_reason=reason, usage=usage)
        finally:
            answer.close()

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        sampling = request.sampling
        limit = self._window - len(request.prompt_ids)
        body: dict[str, Any] = {
            "model": self._upstream.config.remote_model,
            "prompt": list(request.prompt_ids),
            "max_tokens": limit if sampling.max_tokens is None else min(sampling.max_tokens, limit),
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
