"""Between the HTTP routes and the engine: submits a request's choices and gives their events as one stream.

Whatever ends a request early (the client hangs up, another choice fails, the server stops) cancels its work
in the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from starlette.requests import Request

from platen.engines.protocol import (
    Engine,
    EngineFailed,
    EngineOverloaded,
    GenerationRequest,
    SamplingParams,
    Timings,
    TokenEvent,
)
from platen.engines.protocol import Usage as EngineUsage
from platen.serve.errors import ApiError, draining, engine_stopped, failed, overloaded
from platen.serve.openai_types import GenerationParams, PromptTokensDetails, Usage

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class ChoiceEvent:
    """An event of the choice with this index in the answer."""

    index: int
    event: TokenEvent


class Generation:
    """Several prompts with `n` choices each, on their way in the engine.

    Choice `k` of prompt `p` has index `p * n + k`; its seed, if there is one, is the request's plus `k`, so
    the choices differ and each can be had again.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        n: int = 1,
        prompt_logprobs: int | None = None,
        prompt_param: str = "prompt",
        grammar_param: str = "response_format",
        shown: tuple[int, ...] = (),
    ) -> None:
        """Submit everything, or nothing: raises ApiError when the engine does not take it."""
        self._engine = engine
        self._ids: list[str] = []
        self._streams: list[AsyncIterator[TokenEvent]] = []
        self._usage: dict[int, EngineUsage] = {}
        self._timings: dict[int, Timings] = {}
        self._open = len(prompts) * n
        self._n = n
        try:
            for prompt in prompts:
                for choice in range(n):
                    own = _reseeded(sampling, choice)
                    self._submit(
                        GenerationRequest(uuid.uuid4().hex, prompt, own, prompt_logprobs, shown=shown)
                    )
        except EngineOverloaded as error:
            self.cancel()
            raise overloaded(error.retry_after) from None
        except ValueError as error:
            self.cancel()
            raise _refused(str(error), prompt_param, grammar_param) from None
        except EngineFailed:
            self.cancel()
            raise engine_stopped() from None

    @classmethod
    async def start(
        cls,
        engine: Engine,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        n: int = 1,
        prompt_logprobs: int | None = None,
        prompt_param: str = "prompt",
        grammar_param: str = "response_format",
        shown: tuple[int, ...] = (),
    ) -> Generation:
        """A generation whose grammar, if any, was compiled on a thread: other streams go on meanwhile.

        `shown` are special tokens whose names are to be part of the text. The params name the request's
        fields for errors.
        """
        if sampling.grammar is not None:
            try:
                await asyncio.to_thread(engine.prepare, sampling.grammar)
            except ValueError as error:
                raise _refused(str(error), prompt_param, grammar_param) from None
        return cls(
            engine,
            prompts,
            sampling,
            n=n,
            prompt_logprobs=prompt_logprobs,
            prompt_param=prompt_param,
            grammar_param=grammar_param,
            shown=shown,
        )

    def _submit(self, request: GenerationRequest) -> None:
        self._streams.append(self._engine.submit(request))
        self._ids.append(request.request_id)

    async def events(self) -> AsyncIterator[ChoiceEvent]:
        """Events of all choices as they come. Raises ApiError when the engine fails or stops."""
        queue: asyncio.Queue[ChoiceEvent | Exception] = asyncio.Queue()
        readers = [
            asyncio.create_task(_read(index, stream, queue)) for index, stream in enumerate(self._streams)
        ]
        try:
            while self._open:
                item = await queue.get()
                if isinstance(item, Exception):
                    log.error("a generation failed: %s", item)
                    raise failed() from item
                if item.event.finish_reason == "cancelled":
                    raise draining(5)
                if item.event.finish_reason is not None:
                    self._open -= 1
                    if item.event.usage is not None:
                        self._usage[item.index] = item.event.usage
                    if item.event.timings is not None:
                        self._timings[item.index] = item.event.timings
                yield item
        finally:
            self.cancel()
            for reader in readers:
                reader.cancel()

    def cancel(self) -> None:
        """Stop whatever has not ended."""
        for request_id in self._ids:
            self._engine.cancel(request_id)

    @property
    def ended(self) -> bool:
        """All choices have ended by themselves."""
        return self._open == 0

    def seconds_per_token(self) -> float | None:
        """Of all choices, from when they were taken up; None when nothing was written."""
        tokens = sum(used.completion_tokens for used in self._usage.values())
        seconds = sum(times.prefill + times.decode for times in self._timings.values())
        return seconds / tokens if tokens else None

    def usage(self) -> Usage:
        """Tokens of the choices that have ended; a prompt counts once, however many choices it has."""
        prompt = sum(used.prompt_tokens for index, used in self._usage.items() if index % self._n == 0)
        completion = sum(used.completion_tokens for used in self._usage.values())
        cached = sum(used.cached_tokens for index, used in self._usage.items() if index % self._n == 0)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
        )


def _refused(reason: str, prompt_param: str, grammar_param: str) -> ApiError:
    """What an engine's ValueError says, as the client's error."""
    message = f"{reason[:1].upper()}{reason[1:]}."
    if "context window" in reason:
        return ApiError(400, message, param=prompt_param, code="context_length_exceeded")
    if "is not valid" in reason or "grammar" in reason:
        return ApiError(400, message, param=grammar_param, code="invalid_grammar")
    first = reason.split(maxsplit=1)[0]
    param = first if first in ("logit_bias", "stop_token_ids") else prompt_param
    return ApiError(400, message, param=param, code="invalid_value")


async def _read(
    index: int, stream: AsyncIterator[TokenEvent], queue: asyncio.Queue[ChoiceEvent | Exception]
) -> None:
    try:
        async for event in stream:
            queue.put_nowait(ChoiceEvent(index, event))
    except Exception as error:
        queue.put_nowait(error)


def _reseeded(sampling: SamplingParams, choice: int) -> SamplingParams:
    if sampling.seed is None or choice == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + choice) % 2**64)


def check_count(engine: Engine, prompts: int, n: int, prompt_param: str) -> None:
    """Raises ApiError when a request asks for more texts than the engine could ever hold."""
    capacity = engine.capacity()
    most = capacity.max_concurrent + capacity.max_queue
    if prompts * n > most:
        raise ApiError(
            400,
            f"This request asks for {prompts * n} texts at once; the server takes {most}.",
            param=prompt_param if n == 1 else "n",
            code="too_many_choices",
        )


def sampling_of(body: GenerationParams, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
    """The engine's parameters for an OpenAI request, with OpenAI's defaults."""
    return SamplingParams(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=body.top_k or 0,
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p or 0.0,
        typical_p=1.0 if body.typical_p is None else body.typical_p,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=tuple((int(token), bias) for token, bias in (body.logit_bias or {}).items()),
        seed=body.seed,
        stop=body.stops,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        max_tokens=max_tokens,
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
        grammar=None if body.response_format is None else body.response_format.to_grammar(),
    )


def floored(logprob: float) -> float:
    """A log-probability that JSON can say: minus infinity becomes OpenAI's -9999."""
    return max(logprob, -9999.0)


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T | None:
    """Await `work`, but give it up when the client hangs up; then the result is None."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        gone.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
