"""`POST /v1/chat/completions`: answer a conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter, Request, Response

from platen.engines.protocol import TokenLogprob
from platen.prompts.messages import Message
from platen.prompts.tool_parser import CallBegun, CallGrown, Piece, Said
from platen.serve.access.caller import Caller
from platen.serve.api.chat_types import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
    ChatTokenLogprob,
    ChatToolCall,
    FinishReason,
    FunctionCall,
    FunctionDelta,
    NamedToolChoice,
    ToolCallDelta,
    TopLogprob,
)
from platen.serve.api.conversation import Answers, Conversation, ToolUse, new_call_id
from platen.serve.api.generation import check_count, floored, sampling_of
from platen.serve.api.leased_generation import answer
from platen.serve.api.openai_types import FunctionDefinition
from platen.serve.api.openapi import streamed
from platen.serve.context import ServeContext
from platen.serve.hub.served_model import ServedModel, Stamp
from platen.web.errors import ApiError


def chat_router(context: ServeContext) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=streamed(ChatChunk))
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation; with `stream` as server-sent events."""
        return await answer(
            context,
            request,
            body.model,
            lambda model, caller: _Chat.start(model, body, caller),
            stream=bool(body.stream),
            user=body.end_user,
        )

    return router


def messages_of(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """A chat's messages, whichever way they were given."""
    return tuple(
        Message(
            "system" if message.role == "developer" else message.role,
            message.text,
            calls=tuple(call.to_call() for call in message.tool_calls or ()),
            answers=message.tool_call_id,
            name=message.name,
            reasoning=message.reasoning_content,
        )
        for message in messages
    )


def tool_use_of(
    functions: Sequence[FunctionDefinition],
    choice: Literal["none", "auto", "required"] | None,
    named: str | None,
    parallel: bool | None,
) -> ToolUse:
    """OpenAI's parameters of tools as one; `named` is the function that must be called."""
    tools = tuple(function.to_tool() for function in functions)
    mode = "required" if named is not None else choice or "auto"
    return ToolUse(tools, mode, named, several=parallel is not False)


class _Chat:
    """One request being answered."""

    def __init__(self, model: ServedModel, body: ChatRequest, answers: Answers) -> None:
        self._body = body
        self._token_bytes = model.tokenizer.token_bytes
        self._answers = answers
        self.generation = answers.generation
        self._stamp = asdict(Stamp.new("chatcmpl", model.info))

    @classmethod
    async def start(cls, model: ServedModel, body: ChatRequest, caller: Caller) -> _Chat:
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        check_count(model.engine, 1, body.n or 1, "messages")
        functions = [tool.function for tool in body.tools or ()]
        choice = body.tool_choice
        named = choice.function.name if isinstance(choice, NamedToolChoice) else None
        mode = None if isinstance(choice, NamedToolChoice) else choice
        conversation = Conversation(
            messages_of(body.messages),
            tool_use_of(functions, mode, named, body.parallel_tool_calls),
            body.truncate_prompt_tokens,
            body.template_options(),
        )
        sampling = sampling_of(body, body.limit, logprobs, model.info.defaults)
        return cls(model, body, await conversation.start(model, sampling, caller, n=body.n or 1))

    async def pieces(self) -> AsyncIterator[ChatChunk]:
        """The answer bit by bit: each choice opens with its role, at the end the usage if asked for."""
        opened: set[int] = set()
        async for item in self.generation.events():
            delta = _delta(self._answers.read(item.index, item.event))
            logprobs = self._logprobs(item.event.logprobs)
            reason = self._answers.finish_reason(item.index, item.event)
            first = item.index not in opened
            silent = delta.content is None and delta.tool_calls is None
            if silent and logprobs is None and item.event.finish_reason is None and not first:
                continue
            if item.refusal is not None:
                delta.refusal = item.refusal
            if first:
                delta.role = "assistant"
                if silent and not self._body.tools:  # with tools it may become a call, and no text
                    delta.content = ""
                opened.add(item.index)
            choice = ChatChunkChoice(index=item.index, delta=delta, logprobs=logprobs, finish_reason=reason)
            yield ChatChunk(**self._stamp, choices=[choice])
        if self._body.wants_usage:
            yield ChatChunk(**self._stamp, choices=[], usage=self.generation.usage())

    async def whole(self) -> ChatCompletion:
        """The answer in one."""
        count = self._body.n or 1
        said: list[list[Piece]] = [[] for _ in range(count)]
        scores: list[list[ChatTokenLogprob]] = [[] for _ in range(count)]
        choices: dict[int, ChatChoice] = {}
        async for item in self.generation.events():
            said[item.index] += self._answers.read(item.index, item.event)
            scores[item.index] += [self._scored(score) for score in item.event.logprobs]
            reason: FinishReason | None = self._answers.finish_reason(item.index, item.event)
            if reason is not None:
                choices[item.index] = ChatChoice(
                    index=item.index,
                    message=_message(said[item.index], item.refusal),
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


def _delta(pieces: Sequence[Piece]) -> ChatDelta:
    """What pieces add to a streamed message."""
    text = "".join(piece.text for piece in pieces if isinstance(piece, Said))
    calls: list[ToolCallDelta] = []
    for piece in pieces:
        if isinstance(piece, CallBegun):
            function = FunctionDelta(name=piece.name)
            calls.append(
                ToolCallDelta(index=piece.index, id=new_call_id(), type="function", function=function)
            )
        elif isinstance(piece, CallGrown):
            if calls and calls[-1].index == piece.index:
                calls[-1].function.arguments += piece.arguments
            else:
                function = FunctionDelta(arguments=piece.arguments)
                calls.append(ToolCallDelta(index=piece.index, function=function))
    return ChatDelta(content=text or None, tool_calls=calls or None)


def _message(pieces: Sequence[Piece], refusal: str | None) -> AssistantMessage:
    """A whole message of its pieces, and what stands in place of the rest."""
    text = "".join(piece.text for piece in pieces if isinstance(piece, Said))
    calls: list[ChatToolCall] = []
    for piece in pieces:
        if isinstance(piece, CallBegun):
            calls.append(ChatToolCall(id=new_call_id(), function=FunctionCall(name=piece.name, arguments="")))
        elif isinstance(piece, CallGrown):
            calls[piece.index].function.arguments += piece.arguments
    content = None if calls and not text else text
    return AssistantMessage(content=content, tool_calls=calls or None, refusal=refusal)
