"""`/v1/chat/completions` as types."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from platen.prompts.messages import ToolCall
from platen.prompts.templates import RESERVED_VARIABLES, TemplateOptions
from platen.serve.api.openai_types import (
    Answer,
    FunctionDefinition,
    GenerationParams,
    JsonObject,
    Text,
    Usage,
    encodable_json,
    one_complaint,
    refuse_unless,
)

MAX_TOOLS = 128
MAX_MESSAGES = 2048
MAX_DOCUMENTS = 1024


def absent_if_none(value: object) -> bool:
    """Fields without news are left out, as OpenAI leaves them out."""
    return value is None


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: Text


class CalledFunction(BaseModel):
    """A function's name and the arguments as JSON text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text
    arguments: Text

    @field_validator("arguments")
    @classmethod
    def _json_object(cls, value: str) -> str:
        try:
            parsed = json.loads(value or "{}")
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise PydanticCustomError("arguments", "should be a JSON object, written as a string")
        encodable_json(parsed)
        return value or "{}"


class MessageToolCall(BaseModel):
    """A call that the model made earlier."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction

    def to_call(self) -> ToolCall:
        return ToolCall(self.function.name, self.function.arguments, self.id)


class ChatMessage(BaseModel):
    """One turn. `developer` is another name for `system`; `tool` answers an earlier call."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"],
        one_complaint("system, developer, user, assistant or tool"),
    ]
    content: Annotated[
        Text | list[TextPart] | None, one_complaint("a string or a list of parts of type text")
    ] = None
    name: Text | None = None
    tool_calls: Annotated[list[MessageToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Text | None = None
    reasoning_content: Text | None = None
    """What an assistant thought before it answered, for templates of models that reason."""
    refusal: str | None = None
    function_call: Any = None
    audio: Any = None
    annotations: Any = None

    @field_validator("function_call", "audio")
    @classmethod
    def _must_be_absent(cls, value: object) -> object:
        return refuse_unless(value, not value)

    @model_validator(mode="after")
    def _roles(self) -> ChatMessage:
        if self.role == "tool" and self.tool_call_id is None:
            raise PydanticCustomError("tool", "a message of the role tool needs a tool_call_id")
        if self.role != "tool" and self.tool_call_id is not None:
            raise PydanticCustomError("tool", "only a message of the role tool has a tool_call_id")
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError("tool", "only a message of the role assistant has tool_calls")
        return self

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class NamedFunction(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text


class NamedToolChoice(BaseModel):
    """The model must call this function."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["function"]
    function: NamedFunction


class ChatTool(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Annotated[Literal["function"], one_complaint("function: other tools are not supported")]
    function: FunctionDefinition


class TemplateParams(BaseModel):
    """What a request says of the chat template, as vLLM's server takes it."""

    chat_template: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """One of the model's own, by name. By default `tool_use`, if there is one, for tools, else `default`."""
    chat_template_kwargs: JsonObject | None = None
    """Further variables of the template, such as `enable_thinking`."""
    documents: Annotated[list[JsonObject], Field(max_length=MAX_DOCUMENTS)] | None = None
    """Objects with `title` and `text`, for models that answer from documents."""
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    """Go on with the last message, an assistant's, instead of beginning another."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _variables(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if taken := sorted(RESERVED_VARIABLES.intersection(value or ())):
            raise PydanticCustomError(
                "variable", "may not have '{name}', which has a parameter of its own", {"name": taken[0]}
            )
        return value

    @field_validator("continue_final_message")
    @classmethod
    def _one_ending(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value and info.data.get("add_generation_prompt"):
            raise PydanticCustomError("template", "and add_generation_prompt can't both be set")
        return value

    def template_options(self) -> TemplateOptions:
        return TemplateOptions(
            documents=self.documents,
            template=self.chat_template,
            add_generation_prompt=self.add_generation_prompt is not False,
            continue_final_message=bool(self.continue_final_message),
            variables=self.chat_template_kwargs,
        )


class ChatRequest(TemplateParams, GenerationParams):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    tools: Annotated[list[ChatTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedToolChoice | None,
        one_complaint("none, auto, required, or the name of a function"),
    ] = None
    parallel_tool_calls: bool | None = None

    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    @field_validator("functions", "audio", "prediction", "web_search_options", "verbosity")
    @classmethod
    def _must_be_absent(cls, value: object) -> object:
        return refuse_unless(value, not value)

    @field_validator("function_call", "reasoning_effort")
    @classmethod
    def _must_be_none(cls, value: object) -> object:
        return refuse_unless(value, value in (None, "none", "auto"))

    @field_validator("modalities")
    @classmethod
    def _text_modality(cls, value: object) -> object:
        return refuse_unless(value, value in (None, ["text"]))

    @property
    def limit(self) -> int | None:
        """Most tokens to write; the newer name wins over the older."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[ChatTokenLogprob]
    refusal: None = None


class FunctionCall(BaseModel):
    name: str
    arguments: str


class ChatToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    tool_calls: Annotated[list[ChatToolCall] | None, Field(exclude_if=absent_if_none)] = None


FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(Answer):
    """A whole answer in a chat."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(BaseModel):
    name: Annotated[str | None, Field(exclude_if=absent_if_none)] = None
    arguments: str = ""


class ToolCallDelta(BaseModel):
    """The beginning of a call, with its id and name, or more of its arguments."""

    index: int
    id: Annotated[str | None, Field(exclude_if=absent_if_none)] = None
    type: Annotated[Literal["function"] | None, Field(exclude_if=absent_if_none)] = None
    function: FunctionDelta


class ChatDelta(BaseModel):
    """What is new in a message; a field without news is left out."""

    role: Annotated[Literal["assistant"] | None, Field(exclude_if=absent_if_none)] = None
    content: Annotated[str | None, Field(exclude_if=absent_if_none)] = None
    refusal: Annotated[str | None, Field(exclude_if=absent_if_none)] = None
    tool_calls: Annotated[list[ToolCallDelta] | None, Field(exclude_if=absent_if_none)] = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(Answer):
    """One piece of a streamed answer in a chat."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
