"""The reference engine: any bundle, several requests decoded together in PyTorch.

The async front checks a request and waits for its events; a thread of the engine's own runs the loop over
scheduler and model runner. The two share a lock, an inbox and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as TokenSequence
from typing import Literal

import torch

from platen.engines.protocol import (
    Capacity,
    EngineFailed,
    EngineOverloaded,
    EngineStats,
    GenerationRequest,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from platen.engines.runner import ModelRunner, NextToken
from platen.engines.sampling import LogprobRow, RandomStream
from platen.engines.scheduler import PrefillChunk, Scheduler, Sequence
from platen.engines.streams import Delivery, EventStream, deliver
from platen.engines.text import Detokenizer, StopResult, TextAssembler
from platen.models.llama import Llama

log = logging.getLogger(__name__)

EndReason = Literal["stop", "length", "cancelled"]
TokenIds = TokenSequence[int]


class TorchEngine:
    """Continuous batching on one device.

    `new_detokenizer` makes a fresh incremental detokenizer for the text after a prompt; `token_text` names a
    single token for log-probabilities. A token in `eos_ids` ends a request with `stop` and is not part of
    its text.
    """

    name = "torch"

    def __init__(
        self,
        model: Llama,
        *,
        new_detokenizer: Callable[[TokenIds], Detokenizer],
        token_text: Callable[[int], str],
        eos_ids: tuple[int, ...] = (),
        max_concurrent: int = 16,
        max_queue: int = 64,
        prefill_chunk: int = 512,
    ) -> None:
        self._capacity = Capacity(model.config.max_position_embeddings, max_concurrent, max_queue)
        self._vocab_size = model.config.vocab_size
        self._new_detokenizer, self._token_text = new_detokenizer, token_text
        self._eos_ids = frozenset(eos_ids)
        self._runner = ModelRunner(model, max_rows=max_concurrent)
        self._scheduler = Scheduler(max_concurrent=max_concurrent, prefill_chunk=prefill_chunk)
        self._wake = threading.Condition()
        # Below: shared between the front and the thread, touched only with `_wake` held.
        self._open: dict[str, tuple[Sequence, EventStream]] = {}
        self._inbox: deque[Sequence] = deque()
        self._closing = self._failed = False
        # Below: the thread's own; the front only reads the counts.
        self._outbox: list[Delivery] = []
        self._tokens_generated = 0
        self._steps = 0
        self._seconds_per_request = 1.0
        self._started: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="platen-torch-engine", daemon=True)
        self._thread.start()

    # The async front.

    def submit(self, request: GenerationRequest) -> EventStream:
        """Queue a request; see `Engine.submit`. Must be called inside a running event loop."""
        allowance = self._allowance(request)
        sequence = Sequence(
            request,
            TextAssembler(self._new_detokenizer(request.prompt_ids), request.sampling.stop),
            RandomStream(request.sampling.seed),
            allowance,
        )
        stream = EventStream(lambda: self.cancel(request.request_id))
        with self._wake:
            if self._closing:
                raise EngineFailed("the engine is closed")
            if request.request_id in self._open:
                raise ValueError(f"request id {request.request_id!r} is in use")
            if len(self._open) >= self._capacity.max_concurrent + self._capacity.max_queue:
                raise EngineOverloaded(self._retry_after())
            self._open[request.request_id] = (sequence, stream)
            self._inbox.append(sequence)
            self._wake.notify()
        return stream

    def cancel(self, request_id: str) -> None:
        with self._wake:
            if request_id in self._open:
                self._open[request_id][0].cancelled = True
                self._wake.notify()

    def capacity(self) -> Capacity:
        return self._capacity

    def stats(self) -> EngineStats:
        with self._wake:
            active = self._scheduler.active
            return EngineStats(
                running=active,
                waiting=max(0, len(self._open) - active),
                tokens_generated=self._tokens_generated,
                failed=self._failed,
                extra={"steps": float(self._steps), "cache_bytes": float(self._runner.batch.size_bytes)},
            )

    async def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _allowance(self, request: GenerationRequest) -> int:
        """How many tokens the request may get. Raises ValueError when its prompt can't be used."""
        window, length = self._capacity.context_window, len(request.prompt_ids)
        asked = request.sampling.max_tokens
        if length == 0:
            raise ValueError("the prompt has no tokens")
        room = window - length
        if room < 0 or (room == 0 and asked != 0):
            raise ValueError(f"the prompt has {length} tokens; the context window is {window}")
        if any(not 0 <= token_id < self._vocab_size for token_id in request.prompt_ids):
            raise ValueError(f"a prompt token is outside the vocabulary of {self._vocab_size}")
        return room if asked is None else min(asked, room)

    def _retry_after(self) -> float:
        """Seconds until a place is likely to be free, from how long requests have taken lately."""
        return min(max(self._seconds_per_request / self._capacity.max_concurrent, 1.0), 60.0)

    # The thread.

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            log.exception("the engine's thread has broken down; it takes no more requests")
            with self._wake:
                self._closing = self._failed = True
                streams = [stream for _, stream in self._open.values()]
                self._open.clear()
            deliver([*self._outbox, *((stream, _failure(error)) for stream in streams)])

    @torch.inference_mode()
    def _work(self) -> None:
        while True:
            with self._wake:
                while self._scheduler.idle and not self._inbox and not self._closing:
                    self._wake.wait()
                while self._inbox:
                    self._scheduler.add(self._inbox.popleft())
                closing = self._closing
            if closing:
                for sequence in self._scheduler.everyone():
                    self._end(sequence, "cancelled")
                self._flush()
                return
            try:
                self._step()
            except Exception as error:
                log.exception("the engine failed in a step; its requests are lost")
                self._fail_all(error)
            self._flush()

    def _step(self) -> None:
        """Drop what was cancelled, read prompts, write one token for each that writes."""
        for sequence in self._scheduler.cancelled():
            self._end(sequence, "cancelled")
        writing = list(self._scheduler.running)
        if writing:
            for sequence, token in zip(writing, self._runner.decode(writing), strict=True):
                sequence.computed += 1
                self._take(sequence, token)
        read = 0
        while (chunk := self._scheduler.next_prefill(read)) is not None:
            read += chunk.stop - chunk.start
            self._prefill(chunk)
        self._steps += 1

    def _prefill(self, chunk: PrefillChunk) -> None:
        sequence = chunk.sequence
        if chunk.first:
            self._started[sequence.request.request_id] = time.monotonic()
        token = self._runner.prefill(chunk)
        self._scheduler.prefilled(chunk)
        if token is None:
            return
        scores: tuple[TokenLogprob | None, ...] = ()
        if sequence.request.prompt_logprobs is not None:
            scores = (None, *(self._named(row) for row in self._runner.take_prompt_logprobs()))
        if sequence.max_new_tokens == 0:
            self._end(sequence, "length", prompt_logprobs=scores)
        else:
            self._take(sequence, token, scores)

    def _take(
        self, sequence: Sequence, token: NextToken, prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    ) -> None:
        """Add a token to its sequence; tell the reader; end the sequence if this was its last."""
        sequence.tokens.append(token.token_id)
        self._tokens_generated += 1
        logprobs = () if token.logprob is None else (self._named(token.logprob),)
        if token.token_id in self._eos_ids:
            self._end(sequence, "stop", (token.token_id,), logprobs, prompt_logprobs)
            return
        result = sequence.text.push(token.token_id)
        reason: EndReason | None = "stop" if result.stopped else None
        if reason is None and sequence.generated >= sequence.max_new_tokens:
            reason = "length"
        if reason is not None:
            self._end(sequence, reason, (token.token_id,), logprobs, prompt_logprobs, result)
            return
        event = TokenEvent((token.token_id,), result.text, logprobs, prompt_logprobs=prompt_logprobs)
        self._send(sequence, event)

    def _end(
        self,
        sequence: Sequence,
        reason: EndReason,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
        prompt_logprobs: tuple[TokenLogprob | None, ...] = (),
        last: StopResult = StopResult("", stopped=False),
    ) -> None:
        """Free what a sequence holds and send its last event, with the text that was held back."""
        text = last.text
        if not last.stopped and reason != "cancelled":
            rest = sequence.text.finish()
            text += rest.text
            reason = "stop" if rest.stopped else reason
        row = self._scheduler.remove(sequence)
        if row is not None:
            self._runner.batch.remove(row)
        usage = Usage(sequence.prompt_length, sequence.generated)
        self._send(sequence, TokenEvent(token_ids, text, logprobs, reason, usage, prompt_logprobs))
        self._close_request(sequence)

    def _named(self, row: LogprobRow) -> TokenLogprob:
        top = tuple((token_id, self._token_text(token_id), value) for token_id, value in row.top)
        return TokenLogprob(row.token_id, self._token_text(row.token_id), row.logprob, top)

    def _send(self, sequence: Sequence, item: TokenEvent | Exception) -> None:
        with self._wake:
            self._outbox.append((self._open[sequence.request.request_id][1], item))

    def _close_request(self, sequence: Sequence) -> None:
        request_id = sequence.request.request_id
        started = self._started.pop(request_id, None)
        if started is not None:
            self._seconds_per_request += 0.2 * (time.monotonic() - started - self._seconds_per_request)
        with self._wake:
            del self._open[request_id]

    def _fail_all(self, error: Exception) -> None:
        with self._wake:
            lost = [sequence for sequence, _ in self._open.values() if sequence not in self._inbox]
        for sequence in lost:
            self._scheduler.remove(sequence)
            self._send(sequence, _failure(error))
            self._close_request(sequence)
        self._runner.reset()

    def _flush(self) -> None:
        items, self._outbox = self._outbox, []
        deliver(items)


def _failure(error: Exception) -> EngineFailed:
    return EngineFailed(f"the engine failed: {type(error).__name__}")
