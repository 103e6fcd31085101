"""`POST /v1/responses`: OpenAI's newer protocol, for text and functions. Nothing is kept on the server."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Literal

from fastapi import APIRouter, Request
from fastapi import Response as HttpResponse

from platen.engines.protocol import SamplingParams
from platen.models.generation_config import first_given
from platen.prompts.messages import Message
from platen.prompts.tool_parser import CallBegun, Piece, Said
from platen.serve.access.caller import Caller
from platen.serve.api.chat import tool_use_of
from platen.serve.api.conversation import Answers, Conversation, Ending, new_call_id
from platen.serve.api.leased_generation import answer
from platen.serve.api.openai_types import Usage
from platen.serve.api.openapi import streamed
from platen.serve.api.responses_events import (
    AnyEvent,
    ArgumentsDelta,
    ArgumentsDone,
    Event,
    ItemEvent,
    PartEvent,
    ResponseEvent,
    TextDelta,
    TextDone,
)
from platen.serve.api.responses_types import (
    Cut,
    IncompleteDetails,
    InputCall,
    InputMessage,
    InputTokensDetails,
    ItemStatus,
    NamedTool,
    OutputCall,
    OutputMessage,
    OutputText,
    Response,
    ResponseFailure,
    ResponsesRequest,
    ResponseUsage,
    TextConfig,
)
from platen.serve.context import ServeContext
from platen.serve.hub.served_model import ServedModel
from platen.web.errors import ApiError

_CUTS: dict[Ending, Cut] = {"length": "max_output_tokens", "content_filter": "content_filter"}


def responses_router(context: ServeContext) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/responses", response_model=Response, responses=streamed(AnyEvent))
    async def create_response(body: ResponsesRequest, request: Request) -> HttpResponse:
        """Answer an input; with `stream` as typed server-sent events."""
        return await answer(
            context,
            request,
            body.model,
            lambda model, caller: _Work.start(model, body, caller),
            stream=bool(body.stream),
            user=body.end_user,
        )

    return router


class _Work:
    """One request being answered."""

    def __init__(
        self, model: ServedModel, body: ResponsesRequest, sampling: SamplingParams, answers: Answers
    ) -> None:
        self._answers = answers
        self.generation = answers.generation
        self._count = 0
        self._response = Response(
            id=f"resp_{uuid.uuid4().hex}",
            created_at=int(time.time()),
            model=model.info.name,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            text=body.text or TextConfig(),
            tools=body.tools or [],
            tool_choice=body.tool_choice or "auto",
            parallel_tool_calls=body.parallel_tool_calls is not False,
            truncation=body.truncation or "disabled",
            metadata=body.metadata,
        )

    @classmethod
    async def start(cls, model: ServedModel, body: ResponsesRequest, caller: Caller) -> _Work:
        choice = body.tool_choice
        named = choice.name if isinstance(choice, NamedTool) else None
        mode = None if isinstance(choice, NamedTool) else choice
        window = model.engine.capacity().context_window
        wanted = min(body.max_output_tokens or window, window // 2)
        conversation = Conversation(
            tuple(_messages(body)),
            tool_use_of(body.tools or (), mode, named, body.parallel_tool_calls),
            window - wanted if body.truncation == "auto" else None,
            messages_param="input",
        )
        own = model.info.defaults
        sampling = SamplingParams(
            temperature=first_given(body.temperature, own.temperature, 1.0),
            top_k=first_given(None, own.top_k, 0),
            top_p=first_given(body.top_p, own.top_p, 1.0),
            min_p=first_given(None, own.min_p, 0.0),
            repetition_penalty=first_given(None, own.repetition_penalty, 1.0),
            logit_bias=own.biases(),
            max_tokens=body.max_output_tokens,
            grammar=body.text.format.to_grammar() if body.text and body.text.format else None,
        )
        answers = await conversation.start(model, sampling, caller, answer_param="text.format")
        return cls(model, body, sampling, answers)

    async def whole(self) -> Response:
        """The answer in one."""
        async for _ in self.pieces():
            pass
        return self._response

    async def pieces(self) -> AsyncIterator[Event]:
        """The answer bit by bit, from when the engine has begun: until then another one can answer."""
        async for item in self.generation.events():
            if self._count == 0:
                for event in self._begin():
                    yield event
            for piece in self._answers.read(0, item.event):
                for event in self._add(piece):
                    yield event
            reason = self._answers.finish_reason(0, item.event)
            if reason is not None:
                for event in self._end(_CUTS.get(reason)):
                    yield event

    def failure(self, error: ApiError) -> Event:
        """The last event of a stream that fails."""
        self._response.status = "failed"
        self._response.error = ResponseFailure(message=error.message)
        return self._numbered(ResponseEvent(type="response.failed", response=self._response))

    def _begin(self) -> Iterator[Event]:
        yield self._numbered(ResponseEvent(type="response.created", response=self._response))
        yield self._numbered(ResponseEvent(type="response.in_progress", response=self._response))

    def _add(self, piece: Piece) -> Iterator[Event]:
        """What a chunk adds: a new item where its kind changes, then more of the item."""
        output = self._response.output
        if isinstance(piece, Said):
            if not output or not isinstance(output[-1], OutputMessage):
                yield from self._close("completed")
                yield from self._open_message()
            message = output[-1]
            assert isinstance(message, OutputMessage)
            message.content[0].text += piece.text
            yield self._numbered(
                TextDelta(output_index=len(output) - 1, item_id=message.id, delta=piece.text)
            )
        elif isinstance(piece, CallBegun):
            yield from self._close("completed")
            call = OutputCall(
                id=f"fc_{uuid.uuid4().hex}",
                call_id=new_call_id(),
                name=piece.name,
                arguments="",
                status="in_progress",
            )
            output.append(call)
            yield self._item("response.output_item.added")
        else:
            call_item = output[-1]
            assert isinstance(call_item, OutputCall)
            call_item.arguments += piece.arguments
            yield self._numbered(
                ArgumentsDelta(output_index=len(output) - 1, item_id=call_item.id, delta=piece.arguments)
            )

    def _open_message(self) -> Iterator[Event]:
        message = OutputMessage(id=f"msg_{uuid.uuid4().hex}", status="in_progress", content=[])
        self._response.output.append(message)
        yield self._item("response.output_item.added")
        message.content.append(OutputText(text=""))
        yield self._part("response.content_part.added", message)

    def _close(self, status: ItemStatus) -> Iterator[Event]:
        """The last item is complete, or was cut."""
        if not self._response.output or self._response.output[-1].status != "in_progress":
            return
        item, index = self._response.output[-1], len(self._response.output) - 1
        item.status = status
        if isinstance(item, OutputMessage):
            text = item.content[0].text
            yield self._numbered(TextDone(output_index=index, item_id=item.id, text=text))
            yield self._part("response.content_part.done", item)
        else:
            yield self._numbered(
                ArgumentsDone(output_index=index, item_id=item.id, name=item.name, arguments=item.arguments)
            )
        yield self._item("response.output_item.done")

    def _end(self, cut: Cut | None) -> Iterator[Event]:
        """The response is over; `cut` says why it is not complete."""
        if not self._response.output:
            yield from self._open_message()
        yield from self._close("incomplete" if cut else "completed")
        response = self._response
        response.usage = _usage(self.generation.usage())
        response.status = "incomplete" if cut else "completed"
        if cut:
            response.incomplete_details = IncompleteDetails(reason=cut)
        else:
            response.completed_at = int(time.time())
        yield self._numbered(
            ResponseEvent(type="response.incomplete" if cut else "response.completed", response=response)
        )

    def _item(self, kind: Literal["response.output_item.added", "response.output_item.done"]) -> Event:
        item, index = self._response.output[-1], len(self._response.output) - 1
        return self._numbered(ItemEvent(type=kind, output_index=index, item=item))

    def _part(
        self,
        kind: Literal["response.content_part.added", "response.content_part.done"],
        message: OutputMessage,
    ) -> Event:
        index = len(self._response.output) - 1
        part = message.content[0]
        return self._numbered(PartEvent(type=kind, output_index=index, item_id=message.id, part=part))

    def _numbered(self, event: Event) -> Event:
        event.sequence_number = self._count
        self._count += 1
        return event


def _messages(body: ResponsesRequest) -> list[Message]:
    """The input as messages: calls belong to the assistant's turn before them, instructions come first."""
    messages: list[Message] = []
    for item in (
        [InputMessage(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    ):
        if isinstance(item, InputMessage):
            role = "system" if item.role == "developer" else item.role
            messages.append(Message(role, item.text))
        elif isinstance(item, InputCall):
            before = (
                messages.pop() if messages and messages[-1].role == "assistant" else Message("assistant", "")
            )
            messages.append(Message("assistant", before.text, calls=(*before.calls, item.to_call())))
        else:
            messages.append(Message("tool", item.text, answers=item.call_id))
    if body.instructions:
        system = messages.pop(0).text if messages[0].role == "system" else ""
        messages.insert(0, Message("system", "\n\n".join(filter(None, (body.instructions, system)))))
    return messages


def _usage(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens),
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )
