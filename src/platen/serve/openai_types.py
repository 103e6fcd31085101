"""The OpenAI API's requests and answers as types, as far as this server honours them.

A parameter that would change the answer and can't be honoured is refused by name; one that makes no
difference to the answer is accepted and ignored. Additions that vLLM has too: `top_k`, `min_p`,
`repetition_penalty`, `min_tokens`, `ignore_eos`, `truncate_prompt_tokens`; and `typical_p`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError, ValidationError

from platen.engines.protocol import Grammar

MAX_CHOICES = 128
MAX_PROMPTS = 4096
MAX_TOKENS = 2**20
MAX_STOPS = 16


def _one_complaint(what: str) -> WrapValidator:
    """Of a union's many complaints make one that says what it takes."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("shape", "should be {what}", {"what": what}) from None

    return WrapValidator(validate)


def _encodable(text: str) -> str:
    """JSON can spell half of a surrogate pair, which is no character and has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("not_text", "has half of a surrogate pair, which is no character") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=MAX_TOKENS)]
Prompt = Annotated[
    Text
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
    | TokenIds
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)],
    _one_complaint("a string, a list of strings, a list of token ids or a list of such lists"),
]
StopString = Annotated[Text, Field(min_length=1, max_length=1024)]
Stop = Annotated[
    StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None,
    _one_complaint(f"a string or a list of at most {MAX_STOPS} strings, none of them empty"),
]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = "answer"
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What the text must match. `regex` and `grammar` (Lark) are additions of ours."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text", "json_object", "json_schema", "regex", "grammar"]
    json_schema: JsonSchema | None = None
    pattern: Text | None = None
    grammar: Text | None = None

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        needed = {"json_schema": "json_schema", "regex": "pattern", "grammar": "grammar"}.get(self.type)
        if needed is not None and getattr(self, needed) is None:
            raise PydanticCustomError(
                "incomplete", "type {type} needs {needed}", {"type": self.type, "needed": needed}
            )
        return self

    def to_grammar(self) -> Grammar | None:
        """What the engine is asked to hold the text to; None for free text."""
        if self.type == "json_object":
            return Grammar("json_schema", '{"type": "object"}')
        if self.json_schema is not None:
            return Grammar("json_schema", json.dumps(self.json_schema.schema_))
        if self.pattern is not None:
            return Grammar("regex", self.pattern)
        return None if self.grammar is None else Grammar("lark", self.grammar)


class GenerationParams(BaseModel):
    """What completions and chat have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Of a longer text only its end is read; of a longer conversation the oldest turns are left out."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None
    ) = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    ignore_eos: bool | None = None
    response_format: ResponseFormat | None = None

    user: str | None = None
    """Who asks, in the caller's own words; the same one keeps being answered by the same variant."""
    safety_identifier: str | None = None
    """OpenAI's newer name for `user`."""

    # Accepted and without effect.
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None

    @property
    def end_user(self) -> str | None:
        return self.safety_identifier or self.user

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionRequest(GenerationParams):
    """`POST /v1/completions`."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = 16
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    suffix: str | None = None
    best_of: int | None = None

    @field_validator("suffix")
    @classmethod
    def _no_suffix(cls, value: str | None) -> object:
        return _refuse_unless(value, not value)

    @field_validator("best_of")
    @classmethod
    def _no_best_of(cls, value: int | None) -> object:
        return _refuse_unless(value, value in (None, 1))


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """One turn. `developer` is another name for `system`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Annotated[
        Literal["system", "developer", "user", "assistant"],
        _one_complaint("system, developer, user or assistant: tools and functions are not supported"),
    ]
    content: Annotated[
        Text | list[TextPart] | None, _one_complaint("a string or a list of parts of type text")
    ] = None
    name: str | None = None
    refusal: None = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None
    annotations: Any = None

    @field_validator("tool_calls", "function_call", "audio")
    @classmethod
    def _must_be_absent(cls, value: object) -> object:
        return _refuse_unless(value, not value)

    def for_template(self) -> dict[str, str]:
        """Role and text as a chat template takes them."""
        if isinstance(self.content, list):
            text = "".join(part.text for part in self.content)
        else:
            text = self.content or ""
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(GenerationParams):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    tools: Any = None
    functions: Any = None
    tool_choice: Any = None
    function_call: Any = None
    parallel_tool_calls: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    @field_validator("tools", "functions", "audio", "prediction", "web_search_options", "verbosity")
    @classmethod
    def _must_be_absent(cls, value: object) -> object:
        return _refuse_unless(value, not value)

    @field_validator("tool_choice", "function_call", "reasoning_effort")
    @classmethod
    def _must_be_none(cls, value: object) -> object:
        return _refuse_unless(value, value in (None, "none", "auto"))

    @field_validator("modalities")
    @classmethod
    def _text_modality(cls, value: object) -> object:
        return _refuse_unless(value, value in (None, ["text"]))

    @property
    def limit(self) -> int | None:
        """Most tokens to write; the newer name wins over the older."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


def _refuse_unless(value: object, neutral: bool) -> object:
    if neutral:
        return value
    raise PydanticCustomError("unsupported", "this server can't honour it; leave it out.")


class PromptTokensDetails(BaseModel):
    cached_tokens: int = 0


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()


class Answer(BaseModel):
    """What every answer, and every piece of a streamed one, says of itself."""

    id: str
    created: int
    model: str
    system_fingerprint: str | None = None


class CompletionLogprobs(BaseModel):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []
    text_offset: list[int] = []

    def extend(self, more: CompletionLogprobs) -> None:
        """Add the next tokens."""
        self.tokens += more.tokens
        self.token_logprobs += more.token_logprobs
        self.top_logprobs += more.top_logprobs
        self.text_offset += more.text_offset


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Completion(Answer):
    """An answer, or with `stream` one piece of it."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[ChatTokenLogprob]
    refusal: None = None


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Answer):
    """A whole answer in a chat."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(BaseModel):
    """What is new in a message; a field without news is left out."""

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {key: value for key, value in handler(self).items() if value is not None}


class ChatChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(Answer):
    """One piece of a streamed answer in a chat."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """A model, with OpenAI's fields and three of ours that a chat page needs."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "platen"
    context_window: int
    parameters: int
    kind: Literal["base", "chat"]
    version: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["ok", "draining", "failed"]
    models: list[str]
    running: int
    waiting: int
    tokens_generated: int
