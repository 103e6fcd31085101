"""`POST /v1/chat/completions`: answer a conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from platen.engines.protocol import TokenLogprob
from platen.serve.answering import answer
from platen.serve.context import ServeContext
from platen.serve.errors import ApiError
from platen.serve.generation import Generation, check_count, floored, sampling_of
from platen.serve.openai_types import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatRequest,
    ChatTokenLogprob,
    TopLogprob,
)
from platen.serve.served import ServedModel, Stamp


def chat_router(context: ServeContext) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=ChatCompletion)
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation; with `stream` as server-sent events."""
        return await answer(
            context,
            request,
            body.model,
            lambda model: _Chat.start(model, body),
            stream=bool(body.stream),
            user=body.end_user,
        )

    return router


class _Chat:
    """One request being answered."""

    def __init__(self, model: ServedModel, body: ChatRequest, generation: Generation) -> None:
        self._body = body
        self._token_bytes = model.tokenizer.token_bytes
        self.generation = generation
        self._stamp = asdict(Stamp.new("chatcmpl", model.info))

    @classmethod
    async def start(cls, model: ServedModel, body: ChatRequest) -> _Chat:
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        check_count(model.engine, 1, body.n or 1, "messages")
        messages = [message.for_template() for message in body.messages]
        generation = await Generation.start(
            model.engine,
            [await model.chat_prompt(messages, body.truncate_prompt_tokens)],
            sampling_of(body, body.limit, logprobs),
            n=body.n or 1,
            prompt_param="messages",
        )
        return cls(model, body, generation)

    async def pieces(self) -> AsyncIterator[ChatChunk]:
        """The answer bit by bit: each choice opens with its role, at the end the usage if asked for."""
        opened: set[int] = set()
        async for item in self.generation.events():
            event = item.event
            logprobs = self._logprobs(event.logprobs)
            if not event.text and logprobs is None and event.finish_reason is None and item.index in opened:
                continue
            delta = ChatDelta() if not event.text and item.index in opened else ChatDelta(content=event.text)
            if item.index not in opened:
                delta.role = "assistant"
                opened.add(item.index)
            reason = event.finish_reason if event.finish_reason in ("stop", "length") else None
            choice = ChatChunkChoice(index=item.index, delta=delta, logprobs=logprobs, finish_reason=reason)
            yield ChatChunk(**self._stamp, choices=[choice])
        if self._body.wants_usage:
            yield ChatChunk(**self._stamp, choices=[], usage=self.generation.usage())

    async def whole(self) -> ChatCompletion:
        """The answer in one."""
        count = self._body.n or 1
        texts = [""] * count
        scores: list[list[ChatTokenLogprob]] = [[] for _ in range(count)]
        choices: dict[int, ChatChoice] = {}
        async for item in self.generation.events():
            texts[item.index] += item.event.text
            scores[item.index] += [self._scored(score) for score in item.event.logprobs]
            reason = item.event.finish_reason
            if reason == "stop" or reason == "length":
                choices[item.index] = ChatChoice(
                    index=item.index,
                    message=AssistantMessage(content=texts[item.index]),
                    logprobs=ChatLogprobs(content=scores[item.index]) if self._body.logprobs else None,
                    finish_reason=reason,
                )
        return ChatCompletion(
            **self._stamp,
            choices=[choices[index] for index in sorted(choices)],
            usage=self.generation.usage(),
        )

    def _logprobs(self, scores: tuple[TokenLogprob, ...]) -> ChatLogprobs | None:
        return ChatLogprobs(content=[self._scored(score) for score in scores]) if scores else None

    def _scored(self, score: TokenLogprob) -> ChatTokenLogprob:
        return ChatTokenLogprob(
            token=score.text,
            logprob=floored(score.logprob),
            bytes=list(self._token_bytes(score.token_id)),
            top_logprobs=[
                TopLogprob(token=text, logprob=floored(value), bytes=list(self._token_bytes(token_id)))
                for token_id, text, value in score.top
            ],
        )
