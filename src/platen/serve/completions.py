"""`POST /v1/completions`: continue a text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from platen.engines.protocol import TokenEvent, TokenLogprob
from platen.serve.context import ServeContext, Stamp
from platen.serve.generation import Generation, floored, sampling_of, unless_disconnected
from platen.serve.openai_types import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from platen.serve.sse import EventStreamResponse, model_response


def completions_router(context: ServeContext) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions", response_model=Completion)
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Continue a prompt, or several; with `stream` as server-sent events."""
        context.check_model(body.model)
        work = await _Completion.start(context, body)
        if body.stream:
            return EventStreamResponse(work.pieces(), work.generation.cancel)
        return model_response(await unless_disconnected(request, work.whole()))

    return router


class _Completion:
    """One request being answered."""

    def __init__(
        self, context: ServeContext, body: CompletionRequest, generation: Generation, choices: list[_Choice]
    ) -> None:
        self._body = body
        self.generation = generation
        self._choices = choices
        self._stamp = asdict(Stamp.new("cmpl", context.info))

    @classmethod
    async def start(cls, context: ServeContext, body: CompletionRequest) -> _Completion:
        prompts = await _prompts(context, body.prompt)
        n = body.n or 1
        generation = await Generation.start(
            context.engine,
            prompts,
            sampling_of(body, body.max_tokens, body.logprobs),
            n=n,
            prompt_logprobs=body.logprobs if body.echo else None,
        )
        choices = [_Choice(index, context, prompts[index // n], body) for index in range(len(prompts) * n)]
        return cls(context, body, generation, choices)

    async def pieces(self) -> AsyncIterator[Completion]:
        """The answer bit by bit, at the end the usage if it was asked for."""
        async for item in self.generation.events():
            choice = self._choices[item.index].piece(item.event)
            if choice is not None:
                yield Completion(**self._stamp, choices=[choice])
        if self._body.wants_usage:
            yield Completion(**self._stamp, choices=[], usage=self.generation.usage())

    async def whole(self) -> Completion:
        """The answer in one."""
        done: dict[int, CompletionChoice] = {}
        async for item in self.generation.events():
            piece = self._choices[item.index].piece(item.event)
            if piece is None:
                continue
            if item.index not in done:
                done[item.index] = piece
                continue
            choice = done[item.index]
            choice.text += piece.text
            choice.finish_reason = piece.finish_reason
            if choice.logprobs is not None and piece.logprobs is not None:
                choice.logprobs.extend(piece.logprobs)
        choices = [done[index] for index in sorted(done)]
        return Completion(**self._stamp, choices=choices, usage=self.generation.usage())


class _Choice:
    """Makes one choice's pieces: text, log-probabilities and where in the text each token begins."""

    def __init__(
        self, index: int, context: ServeContext, prompt: Sequence[int], body: CompletionRequest
    ) -> None:
        self._index = index
        self._echo = ""
        self._first_token = context.tokenizer.decode(prompt[:1], skip_special=False)
        if body.echo:
            echoed = body.prompt if isinstance(body.prompt, str) else None
            self._echo = context.tokenizer.decode(prompt) if echoed is None else echoed
        self._with_logprobs = body.logprobs is not None
        self._offset = 0

    def piece(self, event: TokenEvent) -> CompletionChoice | None:
        """What the client gets of an event; None when there is nothing to show yet."""
        text, self._echo = self._echo + event.text, ""
        logprobs = None
        if self._with_logprobs:
            logprobs = self._logprobs([*event.prompt_logprobs, *event.logprobs])
        if not text and not (logprobs and logprobs.tokens) and event.finish_reason is None:
            return None
        reason = event.finish_reason if event.finish_reason in ("stop", "length") else None
        return CompletionChoice(index=self._index, text=text, logprobs=logprobs, finish_reason=reason)

    def _logprobs(self, scores: Sequence[TokenLogprob | None]) -> CompletionLogprobs:
        result = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for score in scores:
            token = self._first_token if score is None else score.text
            result.tokens.append(token)
            result.token_logprobs.append(None if score is None else floored(score.logprob))
            result.top_logprobs.append(
                None if score is None else {text: floored(value) for _, text, value in score.top}
            )
            result.text_offset.append(self._offset)
            self._offset += len(token)
        return result


async def _prompts(
    context: ServeContext, prompt: str | list[str] | list[int] | list[list[int]]
) -> list[list[int]]:
    """Token ids of each prompt in a request. An empty text starts a new document."""
    if isinstance(prompt, str):
        return [await context.text_prompt(prompt)]
    prompts: list[list[int]] = []
    for item in prompt:
        if isinstance(item, str):
            prompts.append(await context.text_prompt(item))
        elif isinstance(item, list):
            prompts.append(item)
    return prompts or [[token_id for token_id in prompt if isinstance(token_id, int)]]
