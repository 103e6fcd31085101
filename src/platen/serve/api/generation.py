"""Between the HTTP routes and the engine: submits a request's choices and gives their events as one stream.

Whatever ends a request early (the client hangs up, another choice fails, the server stops) cancels its work
in the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from starlette.requests import Request

from platen.engines.protocol import (
    Engine,
    EngineFailed,
    EngineOverloaded,
    GenerationRequest,
    RequestRefused,
    SamplingParams,
    Timings,
    TokenEvent,
)
from platen.engines.protocol import Usage as EngineUsage
from platen.models.generation_config import SamplingDefaults, first_given
from platen.serve.access.caller import Caller
from platen.serve.api.openai_types import GenerationParams, PromptTokensDetails, Usage
from platen.serve.guards.output_screening import UNSEEN, Oversight
from platen.serve.hub.served_model import RefusedPrompt
from platen.web.errors import ApiError, draining, engine_stopped, failed, overloaded, waited_too_long

log = logging.getLogger(__name__)

T = TypeVar("T")

EXPECTED_TOKENS = 512
"""What an answer without `max_tokens` is taken to need until it is known."""


@dataclass(frozen=True)
class ChoiceEvent:
    """An event of the choice with this index in the answer."""

    index: int
    event: TokenEvent
    refusal: str | None = None
    """With the finish reason content_filter: what is said in place of the rest."""


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
        caller: Caller,
        n: int = 1,
        prompt_logprobs: int | None = None,
        prompt_param: str = "prompt",
        grammar_param: str = "response_format",
        shown: tuple[int, ...] = (),
    ) -> None:
        """Submit everything, or nothing: raises ApiError when the engine does not take it."""
        self._engine, self._caller = engine, caller
        self._written: dict[int, int] = {}
        self._failed = True
        self._ids: list[str] = []
        self._streams: list[AsyncIterator[TokenEvent]] = []
        self._usage: dict[int, EngineUsage] = {}
        self._timings: dict[int, Timings] = {}
        self._open = len(prompts) * n
        self._n = n
        self._prompts, self._scored = prompts, sampling.logprobs is not None or prompt_logprobs is not None
        self._over: set[int] = set()
        self._oversight = UNSEEN
        try:
            for prompt in prompts:
                for choice in range(n):
                    request = GenerationRequest(
                        uuid.uuid4().hex,
                        prompt,
                        _reseeded(sampling, choice),
                        prompt_logprobs,
                        shown=shown,
                        tenant=caller.tenant,
                        priority=caller.priority,
                    )
                    self._submit(request)
        except EngineOverloaded as error:
            self.cancel()
            raise overloaded(error.retry_after) from None
        except RequestRefused as error:
            self.cancel()
            raise _refused(error, prompt_param, grammar_param) from None
        except EngineFailed:
            self.cancel()
            raise engine_stopped() from None
        self._failed = False

    @classmethod
    async def start(
        cls,
        engine: Engine,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        caller: Caller,
        model: str,
        n: int = 1,
        prompt_logprobs: int | None = None,
        prompt_param: str = "prompt",
        grammar_param: str = "response_format",
        shown: tuple[int, ...] = (),
    ) -> Generation:
        """A generation that its caller may have, at the price of `model`.

        Its grammar, if any, is compiled on a thread: other streams go on meanwhile. `shown` are special
        tokens whose names are to be part of the text. The params name the request's fields for errors. Raises
        ApiError when the caller's limits or the engine do not allow it.
        """
        if sampling.grammar is not None:
            try:
                await asyncio.to_thread(engine.prepare, sampling.grammar)
            except RequestRefused as error:
                raise _refused(error, prompt_param, grammar_param) from None
        window = engine.capacity().context_window
        wanted = EXPECTED_TOKENS if sampling.max_tokens is None else sampling.max_tokens
        most = sum(n * max(0, min(wanted, window - len(prompt))) for prompt in prompts)
        await caller.admit(model, sum(map(len, prompts)), most)
        return cls(
            engine,
            prompts,
            sampling,
            caller=caller,
            n=n,
            prompt_logprobs=prompt_logprobs,
            prompt_param=prompt_param,
            grammar_param=grammar_param,
            shown=shown,
        )

    def _submit(self, request: GenerationRequest) -> None:
        prompt = request.prompt_ids
        stream = _withheld(prompt) if isinstance(prompt, RefusedPrompt) else self._engine.submit(request)
        self._streams.append(stream)
        self._ids.append(request.request_id)

    def oversee(self, oversight: Oversight) -> None:
        """Let `oversight` see every event first. To be called before the events are read.

        Raises ApiError when it may change texts and log-probabilities were asked for.
        """
        if oversight.screens and self._scored:
            raise ApiError(
                400,
                "This server's guards look over what is answered, so it gives no log-probabilities.",
                param="logprobs",
                code="unsupported_parameter",
            )
        self._oversight = oversight

    async def events(self) -> AsyncIterator[ChoiceEvent]:
        """Events of all choices as they come. Raises ApiError when the engine fails or stops."""
        source = _merged(self._streams)
        try:
            while self._open:
                try:
                    item = await anext(source)
                except Exception as error:
                    self._failed = True
                    raise _failure(error) from error
                if item.index in self._over:
                    continue  # a guard has ended it
                written = self._written.get(item.index, 0)
                self._written[item.index] = written + len(item.event.token_ids)
                if item.event.finish_reason == "cancelled":
                    self._failed = True
                    raise draining(5)
                item = self._overseen(item)
                if item.event.finish_reason is not None:
                    self._end(item)
                yield item
        finally:
            self.cancel()
            await source.aclose()

    def _overseen(self, item: ChoiceEvent) -> ChoiceEvent:
        prompt = self._prompts[item.index // self._n]
        if isinstance(prompt, RefusedPrompt):
            return replace(item, refusal=prompt.refusal)
        event, refusal = self._oversight.passed(item.index, item.event, len(prompt))
        if refusal is not None:
            self._engine.cancel(self._ids[item.index])
        return ChoiceEvent(item.index, event, refusal)

    def _end(self, item: ChoiceEvent) -> None:
        event = item.event
        self._open -= 1
        self._over.add(item.index)
        if event.usage is not None:
            self._usage[item.index] = event.usage
        if event.timings is not None:
            self._timings[item.index] = event.timings
        self._oversight.ended(event)

    def cancel(self) -> None:
        """Stop whatever has not ended, and settle with the caller.

        Tokens written are counted as far as they were seen. Prompts are counted in full, but when it is not
        the client who ends the work: then only those that had been read.
        """
        tell = self._oversight.failed if self._failed else self._oversight.cancelled
        for index, request_id in enumerate(self._ids):
            if index not in self._over:
                self._over.add(index)
                self._engine.cancel(request_id)
                tell()
        read = {index // self._n for index in self._written}
        lengths = [0 if isinstance(prompt, RefusedPrompt) else len(prompt) for prompt in self._prompts]
        prompts = [length for place, length in enumerate(lengths) if place in read or not self._failed]
        self._caller.settle(sum(prompts), sum(self._written.values()))

    @property
    def ended(self) -> bool:
        """All choices have ended by themselves."""
        return self._open == 0

    def seconds_per_token(self) -> float | None:
        """Of the choices that the model ended, since they were taken up; None when nothing was written."""
        tokens = sum(self._usage[index].completion_tokens for index in self._timings)
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


def _failure(error: Exception) -> ApiError:
    if isinstance(error, EngineOverloaded):
        return waited_too_long(error.retry_after)
    log.error("a generation failed: %s", error)
    return failed()


def _refused(error: RequestRefused, prompt_param: str, grammar_param: str) -> ApiError:
    """What an engine refuses, as the client's error."""
    message = f"{error.message[:1].upper()}{error.message[1:]}."
    param = {"prompt": prompt_param, "grammar": grammar_param}.get(error.param, error.param)
    return ApiError(400, message, param=param, code=error.code)


async def _withheld(prompt: RefusedPrompt) -> AsyncIterator[TokenEvent]:
    yield TokenEvent(finish_reason="content_filter", usage=EngineUsage(len(prompt), 0))


async def _merged(streams: Sequence[AsyncIterator[TokenEvent]]) -> AsyncGenerator[ChoiceEvent, None]:
    """The events of all streams as they come; raises what one of them does. Of one it needs no tasks."""
    if len(streams) == 1:
        async for event in streams[0]:
            yield ChoiceEvent(0, event)
        return
    queue: asyncio.Queue[ChoiceEvent | Exception] = asyncio.Queue()
    readers = [asyncio.create_task(_read(index, stream, queue)) for index, stream in enumerate(streams)]
    try:
        while True:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        for reader in readers:
            reader.cancel()


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
    """Raises ApiError when a request asks for more sequences than the engine could ever hold."""
    capacity = engine.capacity()
    most = capacity.max_concurrent + capacity.max_queue
    if prompts * n > most:
        raise ApiError(
            400,
            f"This request asks for {prompts * n} texts at once; the server takes {most}.",
            param=prompt_param if n == 1 else "n",
            code="too_many_choices",
        )


def sampling_of(
    body: GenerationParams, max_tokens: int | None, logprobs: int | None, own: SamplingDefaults
) -> SamplingParams:
    """The engine's parameters for an OpenAI request, with the model's own defaults, else OpenAI's."""
    return SamplingParams(
        temperature=first_given(body.temperature, own.temperature, 1.0),
        top_k=first_given(body.top_k, own.top_k, 0),
        top_p=first_given(body.top_p, own.top_p, 1.0),
        min_p=first_given(body.min_p, own.min_p, 0.0),
        typical_p=1.0 if body.typical_p is None else body.typical_p,
        repetition_penalty=first_given(body.repetition_penalty, own.repetition_penalty, 1.0),
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=own.biases({int(token): bias for token, bias in (body.logit_bias or {}).items()}),
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
