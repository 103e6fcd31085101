"""`/v1/responses` as types: text and functions, with nothing kept on the server."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from platen.prompts.messages import ToolCall
from platen.prompts.structured import Grammar
from platen.serve.api.chat_types import MAX_MESSAGES, MAX_TOOLS, CalledFunction
from platen.serve.api.openai_types import (
    FunctionDefinition,
    JsonObject,
    StreamOptions,
    Text,
    one_complaint,
    refuse_unless,
)


class InputPart(BaseModel):
    """A piece of a message; clients send answers back with all that was in them, so other keys are let be."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["input_text", "output_text", "text"]
    text: Text


_Content = Annotated[Text | list[InputPart], one_complaint("a string or a list of parts of text")]


def _text(content: str | list[InputPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


class InputMessage(BaseModel):
    """One turn of the input. `developer` is another name for `system`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["message"] = "message"
    role: Annotated[
        Literal["system", "developer", "user", "assistant"],
        one_complaint("system, developer, user or assistant"),
    ]
    content: _Content

    @property
    def text(self) -> str:
        return _text(self.content)


class InputCall(CalledFunction):
    """A call that the model made earlier."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["function_call"]
    call_id: Text

    def to_call(self) -> ToolCall:
        return ToolCall(self.name, self.arguments, self.call_id)


class InputCallOutput(BaseModel):
    """What came of a call."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["function_call_output"]
    call_id: Text
    output: _Content

    @property
    def text(self) -> str:
        return _text(self.output)


InputItem = Annotated[
    InputMessage | InputCall | InputCallOutput,
    one_complaint("a message, a function_call or a function_call_output, of text"),
]


class TextFormat(BaseModel):
    """What the text must match."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    description: Text | None = None
    schema_: Annotated[JsonObject | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _complete(self) -> TextFormat:
        if self.type == "json_schema" and self.schema_ is None:
            raise PydanticCustomError("incomplete", "type json_schema needs schema")
        return self

    def to_grammar(self) -> Grammar | None:
        """What the engine is asked to hold the text to; None for free text."""
        if self.type == "json_schema":
            return Grammar("json_schema", json.dumps(self.schema_))
        return Grammar("json_schema", '{"type": "object"}') if self.type == "json_object" else None


class TextConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: TextFormat | None = None
    verbosity: None = None


class Reasoning(BaseModel):
    """Nothing that is served here can be told how much to think."""

    model_config = ConfigDict(extra="forbid", strict=True)

    effort: Literal["none"] | None = None
    summary: Literal["auto"] | None = None


class ResponseTool(FunctionDefinition):
    """A function that the model may call."""

    type: Annotated[Literal["function"], one_complaint("function: other tools are not supported")]


class NamedTool(BaseModel):
    """The model must call this function."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["function"]
    name: Text


class ResponsesRequest(BaseModel):
    """`POST /v1/responses`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    input: Annotated[
        Text | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES)],
        one_complaint(
            f"a string or a list of at most {MAX_MESSAGES} messages, function_calls and "
            "function_call_outputs, of text"
        ),
    ]
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedTool | None,
        one_complaint("none, auto, required, or the name of a function"),
    ] = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    """`auto` leaves out the oldest turns of an input that is too long."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    """Nothing is kept: true is refused, and an answer says false."""

    # Refused, for they need what is not kept here, or can't be honoured.
    previous_response_id: Any = None
    conversation: Any = None
    background: Any = None
    background_options: Any = None
    prompt: Any = None
    context_management: Any = None
    include: Any = None
    top_logprobs: Any = None
    moderation: Any = None
    image: Any = None
    reasoning: Reasoning | None = None

    user: str | None = None
    safety_identifier: str | None = None

    # Accepted and without effect.
    max_tool_calls: Any = None
    metadata: Any = None
    service_tier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None

    @field_validator("store", "previous_response_id", "conversation", "background")
    @classmethod
    def _nothing_is_kept(cls, value: object) -> object:
        if value:
            raise PydanticCustomError(
                "unsupported",
                "this server keeps no answers; leave it out and send the whole input each time.",
            )
        return value

    @field_validator(
        "background_options", "prompt", "context_management", "top_logprobs", "moderation", "image"
    )
    @classmethod
    def _must_be_absent(cls, value: object) -> object:
        return refuse_unless(value, not value)

    @field_validator("include")
    @classmethod
    def _nothing_more(cls, value: object) -> object:
        return refuse_unless(value, value in (None, [], ["reasoning.encrypted_content"]))

    @property
    def end_user(self) -> str | None:
        """Who asks, in the caller's own words."""
        return self.safety_identifier or self.user


class OutputText(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(BaseModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: ItemStatus
    content: list[OutputText]


class OutputCall(BaseModel):
    id: str
    type: Literal["function_call"] = "function_call"
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


class InputTokensDetails(BaseModel):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


Cut = Literal["max_output_tokens", "content_filter"]


class IncompleteDetails(BaseModel):
    reason: Cut


class ResponseFailure(BaseModel):
    code: Literal["server_error"] = "server_error"
    message: str


class Response(BaseModel):
    """An answer, and what was asked for."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: list[OutputMessage | OutputCall] = []
    usage: ResponseUsage | None = None
    instructions: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    text: TextConfig
    tools: list[ResponseTool]
    tool_choice: Literal["none", "auto", "required"] | NamedTool
    parallel_tool_calls: bool
    truncation: Literal["auto", "disabled"]
    metadata: Any = None
    store: Literal[False] = False
    background: Literal[False] = False
    previous_response_id: None = None
