"""The `vllm` engine: a `vllm serve` child does the computing, this process the tokens' way to text.

A thread of the engine's own runs an event loop with the child's supervision and one HTTP stream a request. A
child that ends by itself is started again, ever later; what it was writing has failed, what waits goes on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import httpx

from platen.engines.batching.admission import allowance
from platen.engines.batching.detokenize import Detokenizer, TextAssembler
from platen.engines.batching.grammar import GrammarCompiler
from platen.engines.batching.streams import EventStream, deliver
from platen.engines.protocol import (
    Capability,
    Capacity,
    EngineFailed,
    EngineOverloaded,
    EngineStats,
    GenerationRequest,
    RequestRefused,
    TokenEvent,
)
from platen.engines.remote.events import DONE, async_data_lines
from platen.engines.vllm.process import MODEL_NAME
from platen.engines.vllm.response import Response
from platen.engines.vllm.wire import VllmRefused, error_message, read_chunk, request_body
from platen.prompts.structured import Grammar

log = logging.getLogger(__name__)

MAX_CRASHES = 6
"""In a row, none of which became ready: then the engine is broken for good."""
_CONNECT_TRIES = 50


class Child(Protocol):
    """What serves vLLM's API: `VllmChild`, or a server that a test has running."""

    key: str

    async def start(self) -> str: ...

    async def ended(self) -> str: ...

    async def stop(self) -> None: ...


@dataclass(eq=False)
class _Open:
    """A request on its way."""

    request: GenerationRequest
    stream: EventStream
    response: Response
    task: asyncio.Future[None] | None = None


class VllmEngine:
    """The Engine protocol over one child. Options as for `BatchingEngine`.

    `context_window` and `vocab_size` are the model's. `backoff` seconds go by before the first restart, twice
    as many before each further one, a minute at most.
    """

    name = "vllm"
    capabilities: frozenset[Capability] = frozenset({"logprobs", "token_ids"})

    def __init__(
        self,
        child: Child,
        *,
        context_window: int,
        vocab_size: int,
        new_detokenizer: Callable[[Sequence[int]], Detokenizer],
        token_text: Callable[[int], str],
        eos_ids: tuple[int, ...] = (),
        grammars: GrammarCompiler | None = None,
        max_concurrent: int = 16,
        max_queue: int = 64,
        backoff: float = 1.0,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """Starts the child and waits until it is ready. Raises VllmError when it does not start."""
        self._child, self._backoff, self._on_close = child, backoff, on_close
        self._capacity = Capacity(context_window, max_concurrent, max_queue)
        self._vocab_size, self._eos_ids = vocab_size, eos_ids
        self._new_detokenizer, self._token_text, self._grammars = new_detokenizer, token_text, grammars
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}
        self._closing = self._failed = False
        self._tokens_generated = self._restarts = 0
        self._seconds_per_request = 1.0
        self._started: threading.Event = threading.Event()
        self._start_error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="platen-vllm-engine", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._start_error is not None:
            self._thread.join()
            raise self._start_error

    # The front, called from any event loop.

    def submit(self, request: GenerationRequest) -> EventStream:
        """Queue a request; see `Engine.submit`. Must be called inside a running event loop."""
        if request.adapter is not None:
            raise RequestRefused(f"there is no adapter {request.adapter!r}", param="adapter")
        capacity = self._capacity
        tokens = allowance(request, context_window=capacity.context_window, vocab_size=self._vocab_size)
        body = request_body(request, tokens, self._eos_ids, MODEL_NAME)
        if request.sampling.grammar is not None:
            self.prepare(request.sampling.grammar)
        text = TextAssembler(
            self._new_detokenizer(request.prompt_ids), request.sampling.stop, shown=request.shown
        )
        stream = EventStream(lambda: self.cancel(request.request_id))
        opened = _Open(request, stream, Response(request, text, tokens, self._eos_ids, self._token_text))
        with self._lock:
            if self._closing:
                raise EngineFailed("the engine is closed")
            if request.request_id in self._open:
                raise ValueError(f"request id {request.request_id!r} is in use")
            if len(self._open) >= capacity.max_concurrent + capacity.max_queue:
                raise EngineOverloaded(min(max(self._seconds_per_request / capacity.max_concurrent, 1), 60))
            self._open[request.request_id] = opened
            self._loop.call_soon_threadsafe(self._begin, opened, body)
        return stream

    def prepare(self, grammar: Grammar) -> None:
        if self._grammars is None:
            raise RequestRefused("this engine takes no grammars", param="grammar", code="invalid_grammar")
        self._grammars.matcher(grammar)

    def cancel(self, request_id: str) -> None:
        with self._lock:
            opened = self._open.get(request_id)
            if opened is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._cancel, opened)

    def capacity(self) -> Capacity:
        return self._capacity

    def stats(self) -> EngineStats:
        with self._lock:
            running = sum(opened.response.running for opened in self._open.values())
            return EngineStats(
                running=running,
                waiting=len(self._open) - running,
                tokens_generated=self._tokens_generated,
                failed=self._failed,
                extra={"restarts": float(self._restarts)},
            )

    async def close(self) -> None:
        with self._lock:
            already, self._closing = self._closing, True
            if not already:
                self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join)

    # The thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            log.exception("the vllm engine's thread has broken down; it takes no more requests")
            self._fail_all(EngineFailed(f"the engine failed: {type(error).__name__}"))
        finally:
            if self._on_close is not None:
                self._on_close()
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._stop, self._ready = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self._places = asyncio.Semaphore(self._capacity.max_concurrent)
        try:
            self._url = await self._child.start()
        except Exception as error:
            with self._lock:
                self._closing = self._failed = True
            self._start_error = error
            return
        self._ready.set()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self._capacity.max_concurrent)
        headers = {"authorization": f"Bearer {self._child.key}"}
        timeout = httpx.Timeout(30, read=None)
        async with httpx.AsyncClient(
            limits=limits, headers=headers, timeout=timeout, trust_env=False
        ) as http:
            self._http = http
            self._started.set()
            supervision = asyncio.create_task(self._supervise())
            stop = asyncio.create_task(self._stop.wait())
            await asyncio.wait({supervision, stop}, return_when=asyncio.FIRST_COMPLETED)
            supervision.cancel()
            stop.cancel()
            with self._lock:
                self._closing = True
                everyone = list(self._open.values())
            for opened in everyone:
                self._cancel(opened)
            tasks = [opened.task for opened in everyone if opened.task is not None]
            await asyncio.gather(*tasks, supervision, return_exceptions=True)
            await self._child.stop()

    async def _supervise(self) -> None:
        """Start the child again whenever it ends, until it has crashed too often."""
        crashes = 0
        while crashes < MAX_CRASHES:
            why = await self._child.ended()
            self._ready.clear()
            log.error("%s", why)
            while crashes < MAX_CRASHES:
                await asyncio.sleep(min(self._backoff * 2**crashes, 60.0))
                crashes += 1
                try:
                    self._url = await self._child.start()
                except Exception as error:
                    log.error("vLLM did not start again: %s", error)
                    continue
                with self._lock:
                    self._restarts += 1
                self._ready.set()
                crashes = 0
                break
        log.error("vLLM has crashed %d times in a row; the engine takes no more requests", crashes)
        self._fail_all(EngineFailed("the engine failed: vLLM does not run"))

    def _begin(self, opened: _Open, body: dict[str, object]) -> None:
        opened.task = asyncio.create_task(self._work(opened, body))

    def _cancel(self, opened: _Open) -> None:
        if opened.task is None:  # submitted, but not begun: `_begin` comes first
            self._loop.call_soon(self._cancel, opened)
        else:
            opened.task.cancel()

    async def _work(self, opened: _Open, body: dict[str, object]) -> None:
        last: TokenEvent | Exception
        try:
            async with self._places:
                last = await self._reached(opened, body)
        except asyncio.CancelledError:
            last = opened.response.final("cancelled")
        except VllmRefused as error:
            log.error("vLLM refused a request: %s", error)
            last = EngineFailed(f"vLLM refused: {error}")
        except (httpx.HTTPError, OSError) as error:
            last = EngineFailed(f"the engine failed: {type(error).__name__}")
        except Exception as error:
            log.exception("a request to vLLM failed")
            last = EngineFailed(f"the engine failed: {type(error).__name__}")
        with self._lock:
            self._open.pop(opened.request.request_id, None)
        if isinstance(last, TokenEvent) and last.timings is not None and last.finish_reason != "cancelled":
            took = last.timings.prefill + last.timings.decode
            self._seconds_per_request += 0.2 * (took - self._seconds_per_request)
        deliver([(opened.stream, last)])

    async def _reached(self, opened: _Open, body: dict[str, object]) -> TokenEvent:
        """The last event, from a child that could be reached: one that has just ended is soon known to have.

        One that is ending may still take a request and drop it: if nothing was generated, it is sent once
        more.
        """
        dropped = False
        for attempt in range(_CONNECT_TRIES):
            await self._ready.wait()
            opened.response.begin()
            try:
                return await self._stream(opened, body)
            except httpx.ConnectError:
                if attempt == _CONNECT_TRIES - 1:
                    raise
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                if dropped or opened.response.generated or attempt == _CONNECT_TRIES - 1:
                    raise
                dropped = True
            await asyncio.sleep(0.1)
        raise AssertionError

    async def _stream(self, opened: _Open, body: dict[str, object]) -> TokenEvent:
        """Read the response and deliver its events, all but the last, which is returned."""
        response, first = opened.response, True
        async with self._http.stream("POST", f"{self._url}/v1/completions", json=body) as http:
            if http.status_code != 200:
                await http.aread()
                raise VllmRefused(_message(http))
            async for data in async_data_lines(http.aiter_bytes()):
                if data == DONE:
                    break
                chunk = read_chunk(data, opened.request, first=first)
                first, before = False, response.generated
                deliver([(opened.stream, event) for event in response.take(chunk)])
                with self._lock:
                    self._tokens_generated += response.generated - before
                if response.last is not None and chunk.finish_reason is None and chunk.tokens:
                    break  # by a stop string, which only we know: vLLM would go on
        if response.last is None:
            raise VllmRefused("the stream ended early")
        return response.final()

    def _fail_all(self, error: EngineFailed) -> None:
        with self._lock:
            self._closing = self._failed = True
            lost = list(self._open.values())
            self._open.clear()
        for opened in lost:
            if opened.task is not None:
                opened.task.cancel()
        deliver([(opened.stream, error) for opened in lost])


def _message(response: httpx.Response) -> str:
    with suppress(ValueError):
        return error_message(response.json())
    return f"status {response.status_code}"
