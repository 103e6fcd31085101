"""The typed events of a streamed response, in the order and with the fields of OpenAI's Responses API."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, RootModel

from platen.serve.api.responses_types import OutputCall, OutputMessage, OutputText, Response


class Event(BaseModel):
    """One event; they are numbered from 0."""

    type: str
    sequence_number: int = 0


class ResponseEvent(Event):
    """The whole answer begins, goes on, or is over."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: Response


class ItemEvent(Event):
    """A message or a call begins or is complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputMessage | OutputCall


class PartEvent(Event):
    """The text of a message begins or is complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    output_index: int
    item_id: str
    content_index: int = 0
    part: OutputText


class TextDelta(Event):
    """More text."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    output_index: int
    item_id: str
    content_index: int = 0
    delta: str
    logprobs: list[object] = []


class TextDone(Event):
    """All of a message's text."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    output_index: int
    item_id: str
    content_index: int = 0
    text: str
    logprobs: list[object] = []


class ArgumentsDelta(Event):
    """More of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"] = "response.function_call_arguments.delta"
    output_index: int
    item_id: str
    delta: str


class ArgumentsDone(Event):
    """All of a call's arguments."""

    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    output_index: int
    item_id: str
    name: str
    arguments: str


class AnyEvent(
    RootModel[ResponseEvent | ItemEvent | PartEvent | TextDelta | TextDone | ArgumentsDelta | ArgumentsDone]
):
    """One event of a stream."""
