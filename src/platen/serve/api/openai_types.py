"""The OpenAI API's requests and answers as types: what its protocols have in common, and the small answers.

A parameter that would change the answer and can't be honoured is refused by name; one that makes no
difference to the answer is accepted and ignored. Additions that vLLM has too: `top_k`, `min_p`,
`repetition_penalty`, `min_tokens`, `stop_token_ids`, `ignore_eos`, `truncate_prompt_tokens`; and `typical_p`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError, ValidationError

from platen.prompts.structured import Grammar
from platen.prompts.tools import FunctionTool

MAX_CHOICES = 128
MAX_PROMPTS = 4096
MAX_TOKENS = 2**20
MAX_STOPS = 16
MAX_DEPTH = 64


def one_complaint(what: str) -> WrapValidator:
    """Of a union's many complaints make one that says what it takes."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("shape", "should be {what}", {"what": what}) from None

    return WrapValidator(validate)


def refuse_unless(value: object, neutral: bool) -> object:
    if neutral:
        return value
    raise PydanticCustomError("unsupported", "this server can't honour it; leave it out.")


def _encodable(text: str) -> str:
    """JSON can spell half of a surrogate pair, which is no character and has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("not_text", "has half of a surrogate pair, which is no character") from None
    return text


def encodable_json(value: Any) -> Any:
    """Text everywhere inside, and no deeper than anyone writes by hand."""
    _check_json(value, 0)
    return value


def _check_json(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise PydanticCustomError("deep", "is nested more than {most} levels deep", {"most": MAX_DEPTH})
    if isinstance(value, str):
        _encodable(value)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _encodable(key)
            _check_json(item, depth + 1)


Text = Annotated[str, AfterValidator(_encodable)]
JsonObject = Annotated[dict[str, Any], AfterValidator(encodable_json)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=MAX_TOKENS)]
Prompt = Annotated[
    Text
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
    | TokenIds
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)],
    one_complaint("a string, a list of strings, a list of token ids or a list of such lists"),
]
StopString = Annotated[Text, Field(min_length=1, max_length=1024)]
Stop = Annotated[
    StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None,
    one_complaint(f"a string or a list of at most {MAX_STOPS} strings, none of them empty"),
]


class FunctionDefinition(BaseModel):
    """A function that the model may call: its name and the JSON schema of its arguments."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    def to_tool(self) -> FunctionTool:
        return FunctionTool(self.name, self.description or "", self.parameters, bool(self.strict))


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = "answer"
    description: str | None = None
    schema_: Annotated[JsonObject, Field(alias="schema")]
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
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=128)] | None = (
        None
    )
    """Tokens that end the text and are no part of it."""
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


class ModelCard(BaseModel):
    """A model, with OpenAI's fields and some of ours that a chat page needs."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "platen"
    context_window: int
    parameters: int
    kind: Literal["base", "chat", "embedding"]
    version: str
    fingerprint: str
    """Of the model's files; `version` is its beginning, and `system_fingerprint` has it too."""
    registered: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """MODEL@NUMBER, when it was opened by such a name."""
    default_sampling_params: Annotated[
        dict[str, int | float] | None, Field(exclude_if=lambda value: value is None)
    ] = None
    """What the model's generation_config.json asks for, where a request says nothing."""


class UpstreamCard(BaseModel):
    """A model elsewhere to which requests are passed on."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "upstream"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard | UpstreamCard]


class Health(BaseModel):
    status: Literal["ok", "draining", "failed"]
    models: list[str]
    running: int
    waiting: int
    tokens_generated: int
