"""One response of vLLM as events: ids become text, stop strings and end-of-text tokens end it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from platen.engines.batching.detokenize import TextAssembler
from platen.engines.protocol import FinishReason, GenerationRequest, Timings, TokenEvent, TokenLogprob, Usage
from platen.engines.vllm.wire import Chunk, Scored, VllmRefused


class Response:
    """Takes chunks and gives events; `last` is set once the sequence has ended, whatever vLLM still sends."""

    def __init__(
        self,
        request: GenerationRequest,
        text: TextAssembler,
        max_tokens: int,
        eos_ids: tuple[int, ...],
        token_text: Callable[[int], str],
    ) -> None:
        self._request, self._text, self._max_tokens = request, text, max_tokens
        self._ends = request.sampling.ends(eos_ids)
        self._token_text = token_text
        self._prompt: tuple[TokenLogprob | None, ...] = ()
        self._cached = 0
        self._arrived = time.monotonic()
        self._began: float | None = None
        self._first: float | None = None
        self.generated = 0
        self.last: TokenEvent | None = None

    @property
    def running(self) -> bool:
        return self._began is not None

    def begin(self) -> None:
        """It has a slot."""
        self._began = time.monotonic()

    def take(self, chunk: Chunk) -> list[TokenEvent]:
        """The events of a chunk, less the last of all. Raises VllmRefused when vLLM gave the text up."""
        self._cached = chunk.cached_tokens or self._cached
        if chunk.prompt:
            wanted = self._request.prompt_logprobs or 0
            self._prompt = tuple(self._named(scored, wanted) for scored in chunk.prompt)
        events: list[TokenEvent] = []
        for scored in chunk.tokens:
            if self.last is None and self.generated < self._max_tokens:
                self._add(scored, events)
        if chunk.finish_reason is not None and self.last is None:
            if chunk.finish_reason not in ("stop", "length"):
                raise VllmRefused(f"the text was given up: {chunk.finish_reason}")
            rest = self._text.finish()
            event = events.pop() if events else self._event()
            reason: FinishReason = "stop" if rest.stopped or chunk.finish_reason == "stop" else "length"
            self._end(replace(event, text=event.text + rest.text), reason)
        return events

    def final(self, reason: FinishReason | None = None) -> TokenEvent:
        """The last event with all its figures; `reason` when it was ended from outside."""
        event = self.last if self.last is not None and reason is None else TokenEvent(finish_reason=reason)
        usage = Usage(len(self._request.prompt_ids), self.generated, self._cached)
        return replace(event, usage=usage, timings=event.timings or self._timings())

    def _add(self, scored: Scored, events: list[TokenEvent]) -> None:
        self._first = self._first or time.monotonic()
        self.generated += 1
        if scored.token_id in self._ends:
            self._end(self._event(scored, self._text.finish().text), "stop")
            return
        result = self._text.push(scored.token_id)
        event = self._event(scored, result.text)
        if result.stopped:
            self._end(event, "stop")
        else:
            events.append(event)

    def _end(self, event: TokenEvent, reason: FinishReason) -> None:
        self.last = replace(event, finish_reason=reason, timings=self._timings())

    def _event(self, scored: Scored | None = None, text: str = "") -> TokenEvent:
        prompt, self._prompt = self._prompt, ()
        if scored is None:
            return TokenEvent(text=text, prompt_logprobs=prompt)
        wanted = self._request.sampling.logprobs
        named = None if wanted is None else self._named(scored, wanted)
        return TokenEvent((scored.token_id,), text, () if named is None else (named,), prompt_logprobs=prompt)

    def _named(self, scored: Scored, wanted: int) -> TokenLogprob | None:
        if scored.logprob is None:
            return None
        top = tuple((token, self._token_text(token), value) for token, value in scored.top[:wanted])
        return TokenLogprob(scored.token_id, self._token_text(scored.token_id), scored.logprob, top)

    def _timings(self) -> Timings:
        now = time.monotonic()
        began = now if self._began is None else self._began
        first = now if self._first is None else self._first
        return Timings(queued=began - self._arrived, prefill=max(0.0, first - began), decode=now - first)
