"""`/v1/completions` as types."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from platen.serve.api.openai_types import MAX_CHOICES, Answer, GenerationParams, Prompt, Text, Usage


class CompletionRequest(GenerationParams):
    """`POST /v1/completions`."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = 16
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    suffix: Text | None = None
    """What follows: the answer is what stands between it and the prompt."""
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    """How many answers to make; the `n` of the highest mean log-probability come back."""


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
    finish_reason: Literal["stop", "length", "content_filter"] | None = None


class Completion(Answer):
    """An answer, or with `stream` one piece of it."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
    usage: Usage | None = None
