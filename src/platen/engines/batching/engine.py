"""Continuous batching: requests join and leave a running batch between its steps.

The async front checks a request and waits for its events; a thread of the engine's own runs the loop of
scheduler, runner and sampler. The two share a lock, an inbox and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as TokenSequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from platen.core.errors import BundleError
from platen.engines.batching.admission import allowance
from platen.engines.batching.detokenize import Detokenizer, StopResult, TextAssembler
from platen.engines.batching.draft import Draft, DraftOptions
from platen.engines.batching.grammar import GrammarCompiler, Matcher
from platen.engines.batching.logprobs import Scores
from platen.engines.batching.runner import Chunk, Runner
from platen.engines.batching.sampling import Floats, RandomStream, sample
from platen.engines.batching.scheduler import Scheduler
from platen.engines.batching.sequence import Sequence
from platen.engines.batching.streams import Delivery, EventStream, deliver
from platen.engines.protocol import (
    Capability,
    Capacity,
    EngineFailed,
    EngineOverloaded,
    EngineStats,
    GenerationRequest,
    RequestRefused,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from platen.prompts.structured import Grammar

if TYPE_CHECKING:
    from platen.models.adapter import Adapter

log = logging.getLogger(__name__)

_GATHER_SECONDS = 0.012
"""Tokens that follow each other faster than this are delivered together: waking the event loop takes a
twentieth of a fast step, and no reader needs a hundred tokens a second."""

EndReason = Literal["stop", "length", "cancelled"]
TokenIds = TokenSequence[int]


class BatchingEngine:
    """Continuous batching over one runner.

    `new_detokenizer` makes an incremental detokenizer for the text after a prompt; `token_text` names a
    single token for log-probabilities. A token in `eos_ids` ends a request with `stop` and is not part of its
    text. `grammars` compiles the grammars of requests; without it requests with one are refused. With `draft`
    the runner gets draft tokens. A request that has waited `max_wait` seconds for a slot is dropped: its
    stream raises EngineOverloaded. `on_close` is called when the weights are no longer needed.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        new_detokenizer: Callable[[TokenIds], Detokenizer],
        token_text: Callable[[int], str],
        eos_ids: tuple[int, ...] = (),
        grammars: GrammarCompiler | None = None,
        max_concurrent: int = 16,
        max_queue: int = 64,
        prefill_chunk: int = 512,
        on_close: Callable[[], None] | None = None,
        max_wait: float = math.inf,
        draft: DraftOptions | None = None,
    ) -> None:
        self.name = runner.name
        self._capacity = Capacity(
            runner.context_window, max_concurrent, max_queue, runner.kv_bytes, runner.longest
        )
        self._vocab_size = runner.vocab_size
        self._new_detokenizer, self._scores = new_detokenizer, Scores(token_text)
        self._eos_ids = frozenset(eos_ids)
        self._grammars = grammars
        self._runner, self._max_wait = runner, max_wait
        self._on_close = on_close
        self._draft = draft
        self._scheduler = Scheduler(
            runner,
            max_concurrent=max_concurrent,
            prefill_chunk=prefill_chunk,
            draft_tokens=0 if draft is None else draft.step_tokens,
        )
        self._wake = threading.Condition()
        # Below: shared between the front and the thread, touched only with `_wake` held.
        self._open: dict[str, tuple[Sequence, EventStream]] = {}
        self._inbox: deque[Sequence] = deque()
        self._closing = self._failed = False
        self._adapters: dict[str, Adapter] = {}
        # Below: the thread's own; the front only reads the counts.
        self._outbox: list[Delivery] = []
        self._tokens_generated = self._drafted = self._accepted = 0
        self._flushed, self._first_token = 0.0, False
        self._steps = 0
        self._seconds_per_request = 1.0
        self._thread = threading.Thread(target=self._run, name=f"platen-{runner.name}-engine", daemon=True)
        self._thread.start()

    # The async front.

    @property
    def capabilities(self) -> frozenset[Capability]:
        found: set[Capability] = {"logprobs", "token_ids"}
        if self._runner.adapters is not None:
            found.add("adapters")
        if self._draft is not None:
            found.add("draft")
        return frozenset(found)

    def submit(self, request: GenerationRequest) -> EventStream:
        """Queue a request; see `Engine.submit`. Must be called inside a running event loop."""
        sequence = self._sequence(request)
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

    def prepare(self, grammar: Grammar) -> None:
        self._matcher(grammar)

    def _matcher(self, grammar: Grammar) -> Matcher:
        if self._grammars is None:
            raise RequestRefused("this engine takes no grammars", param="grammar", code="invalid_grammar")
        return self._grammars.matcher(grammar)

    def load_adapter(self, name: str, folder: Path) -> str:
        """Let requests choose the adapter in `folder` by `name`; one that had the name is replaced.

        Returns the adapter's fingerprint. What runs keeps the adapter that it began with. Reads files: on a
        thread, where streams must not wait. Raises BundleError when it does not fit the model, or this
        engine takes none.
        """
        if self._runner.adapters is None:
            raise BundleError(
                f"the {self.name} engine takes no adapters",
                hint="Serve the bundle itself, not a compiled form: platen serve --engine torch.",
            )
        adapter = self._runner.adapters.read(folder)
        with self._wake:
            self._adapters[name] = adapter
            self._wake.notify()
        return adapter.fingerprint

    def unload_adapter(self, name: str) -> None:
        """Take no more requests for it; what runs with it goes on. Raises KeyError for an unknown name."""
        with self._wake:
            del self._adapters[name]
            self._wake.notify()

    def adapters(self) -> tuple[str, ...]:
        """The names that a request can choose."""
        with self._wake:
            return tuple(self._adapters)

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
                extra={"steps": float(self._steps), **self._draft_stats(), **self._runner.stats()},
            )

    def _draft_stats(self) -> dict[str, float]:
        if self._draft is None:
            return {}
        return {"draft_tokens": float(self._drafted), "draft_tokens_accepted": float(self._accepted)}

    async def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _sequence(self, request: GenerationRequest) -> Sequence:
        params = request.sampling
        tokens = self._allowance(request)
        matcher = None if params.grammar is None else self._matcher(params.grammar)
        with self._wake:
            adapter = None if request.adapter is None else self._adapters.get(request.adapter)
        if request.adapter is not None and adapter is None:
            raise RequestRefused(f"there is no adapter {request.adapter!r}", param="adapter")
        return Sequence(
            request,
            TextAssembler(self._new_detokenizer(request.prompt_ids), params.stop, shown=request.shown),
            RandomStream(params.seed),
            tokens,
            params.ends(self._eos_ids),
            matcher,
            adapter,
            None if self._draft is None else Draft(self._draft),
        )

    def _allowance(self, request: GenerationRequest) -> int:
        """How many tokens the request may get. Raises RequestRefused."""
        window = self._capacity.context_window
        tokens = allowance(request, context_window=window, vocab_size=self._vocab_size)
        length, longest = len(request.prompt_ids), self._runner.longest
        if request.sampling.max_tokens is None and length < longest:
            return min(tokens, longest - length)
        if length + tokens > longest:
            raise RequestRefused(
                f"prompt and response may take {length + tokens} tokens; the key/value cache holds {longest}",
                param="prompt",
            )
        return tokens

    def _retry_after(self) -> float:
        """Seconds until a slot is likely to be free, from how long requests have taken lately."""
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

    def _work(self) -> None:
        kept: set[Adapter] = set()
        while True:
            with self._wake:
                while (
                    self._scheduler.idle
                    and not self._inbox
                    and not self._closing
                    and self._wanted_adapters() == kept
                ):
                    self._wake.wait()
                arrived = bool(self._inbox)
                while self._inbox:
                    self._scheduler.add(self._inbox.popleft())
                closing = self._closing
                adapters = self._wanted_adapters()
            if closing:
                for sequence in self._scheduler.everyone():
                    self._end(sequence, "cancelled")
                self._flush()
                self._runner.close()
                if self._on_close is not None:
                    self._on_close()
                return
            if arrived:
                self._flush()  # the prefill of what arrived may take long
            try:
                if adapters != kept and self._runner.adapters is not None:
                    self._runner.adapters.keep(list(adapters))
                    kept = adapters
                self._step()
            except Exception as error:
                log.exception("the engine failed in a step; its requests are lost")
                self._fail_all(error)
            waited = time.monotonic() - self._flushed >= _GATHER_SECONDS
            if waited or self._first_token or self._scheduler.idle:
                self._flush()

    def _wanted_adapters(self) -> set[Adapter]:
        """Those that requests can choose, and those that running requests use."""
        running = (sequence.adapter for sequence, _ in self._open.values())
        return {*self._adapters.values(), *(adapter for adapter in running if adapter is not None)}

    def _step(self) -> None:
        """Drop what was cancelled, compute the next chunks, and choose the next tokens."""
        for sequence in self._scheduler.cancelled():
            self._end(sequence, "cancelled")
        self._extend_reservations()
        chunks = self._scheduler.plan()
        for sequence in self._scheduler.waiting_longer_than(self._max_wait):
            self._give_up(sequence, EngineOverloaded(self._retry_after()))
        if not chunks:
            return
        logits = self._runner.forward(chunks)
        self._steps += 1
        rows = self._finish_chunks(chunks, logits)
        while rows:
            rows = self._decode(rows, logits)
        for chunk in chunks:
            if chunk.draft:
                accepted = chunk.sequence.record_acceptance(chunk.stop, len(chunk.draft))
                self._drafted, self._accepted = self._drafted + len(chunk.draft), self._accepted + accepted

    def _extend_reservations(self) -> None:
        for sequence in list(self._scheduler.decoding):
            if (tokens := sequence.wants_room) is not None:
                if self._runner.extend(sequence, tokens):
                    sequence.reserved = tokens
                else:
                    self._end(sequence, "length")

    def _finish_chunks(self, chunks: list[Chunk], logits: Floats) -> list[tuple[Chunk, int]]:
        """Note that the chunks are computed. Returns those whose sequences get a token, each with the row of
        `logits` that it is chosen from: that of the newest token, with the draft tokens' rows after it.
        """
        rows, end = [], 0
        for chunk in chunks:
            if chunk.logits == "all":
                self._scores.read(chunk, logits[end : end + chunk.rows])
            end += chunk.rows
            self._scheduler.computed(chunk)
            if chunk.logits != "none" and chunk.stop == len(chunk.sequence.tokens):
                if chunk.sequence.max_new_tokens == 0:
                    self._end(chunk.sequence, "length", scores=self._scores.take(chunk.sequence))
                else:
                    rows.append((chunk, end - 1 - len(chunk.draft)))
        return rows

    def _decode(self, rows: list[tuple[Chunk, int]], logits: Floats) -> list[tuple[Chunk, int]]:
        """Choose each chunk's next token from its row of `logits` (N, V). Returns the chunks whose draft
        token that is, each with the row after it, from which one more token can be chosen.
        """
        whole = len(rows) == logits.shape[0]
        chosen_from = logits if whole else logits[[row for _, row in rows]]
        sequences = [chunk.sequence for chunk, _ in rows]
        chosen = sample(chosen_from, [sequence.row() for sequence in sequences])
        for index, (sequence, token_id) in enumerate(zip(sequences, chosen, strict=True)):
            logprobs = self._scores.chosen(sequence, token_id, chosen_from[index : index + 1])
            self._take(sequence, token_id, logprobs, self._scores.take(sequence))
        return [
            (chunk, row + 1)
            for (chunk, row), token_id in zip(rows, chosen, strict=True)
            if self._accept(chunk, token_id)
        ]

    def _accept(self, chunk: Chunk, token_id: int) -> bool:
        """Whether the token just chosen is the chunk's next draft token, whose keys are in the cache."""
        accepted = chunk.sequence.computed - chunk.stop
        if chunk.sequence.ended or accepted == len(chunk.draft) or chunk.draft[accepted] != token_id:
            return False
        self._scheduler.accepted(chunk.sequence)
        return True

    def _take(
        self,
        sequence: Sequence,
        token_id: int,
        logprobs: tuple[TokenLogprob, ...],
        scores: tuple[TokenLogprob | None, ...],
    ) -> None:
        """Add a token to its sequence, send it, and end the sequence if this was its last."""
        sequence.add(token_id)
        self._first_token |= sequence.generated == 1
        self._tokens_generated += 1
        if token_id in sequence.end_ids:
            self._end(sequence, "stop", (token_id,), logprobs, scores)
            return
        result = sequence.text.push(token_id)
        reason: EndReason | None = "stop" if result.stopped else None
        if reason is None and sequence.matcher is not None:
            sequence.matcher.accept(token_id)
            reason = "stop" if sequence.matcher.ended else None
        if reason is None and sequence.generated >= sequence.max_new_tokens:
            reason = "length"
        if reason is not None:
            self._end(sequence, reason, (token_id,), logprobs, scores, result)
            return
        self._send(sequence, TokenEvent((token_id,), result.text, logprobs, prompt_logprobs=scores))

    def _end(
        self,
        sequence: Sequence,
        reason: EndReason,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
        scores: tuple[TokenLogprob | None, ...] = (),
        last: StopResult = StopResult("", stopped=False),
    ) -> None:
        """Free a sequence's slot and send its last event, with the text that was held back."""
        text = last.text
        if not last.stopped and reason != "cancelled":
            rest = sequence.text.finish()
            text += rest.text
            reason = "stop" if rest.stopped else reason
        self._scheduler.remove(sequence)
        sequence.ended = True
        self._scores.take(sequence)
        usage = Usage(sequence.prompt_length, sequence.generated, sequence.reused)
        timings = sequence.timings()
        self._send(sequence, TokenEvent(token_ids, text, logprobs, reason, usage, timings, scores))
        if reason != "cancelled":
            took = timings.prefill + timings.decode
            self._seconds_per_request += 0.2 * (took - self._seconds_per_request)
        self._close_request(sequence)

    def _send(self, sequence: Sequence, item: TokenEvent | Exception) -> None:
        with self._wake:
            self._outbox.append((self._open[sequence.request.request_id][1], item))

    def _close_request(self, sequence: Sequence) -> None:
        with self._wake:
            del self._open[sequence.request.request_id]

    def _give_up(self, sequence: Sequence, error: Exception) -> None:
        self._scheduler.remove(sequence)
        self._send(sequence, error)
        self._close_request(sequence)

    def _fail_all(self, error: Exception) -> None:
        with self._wake:
            lost = [sequence for sequence, _ in self._open.values() if sequence not in self._inbox]
        self._runner.reset()
        for sequence in lost:
            self._give_up(sequence, _failure(error))
        self._scores.forget()

    def _flush(self) -> None:
        self._flushed, self._first_token = time.monotonic(), False
        items, self._outbox = self._outbox, []
        deliver(items)


def _failure(error: Exception) -> EngineFailed:
    return EngineFailed(f"the engine failed: {type(error).__name__}")
