"""`/v1/embeddings` as types: OpenAI's request and answer, and `truncate_prompt_tokens` as vLLM has it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from platen.serve.api.openai_types import Prompt

if TYPE_CHECKING:
    from platen.engines.embedding.embedder import Vectors

MODEL_LIMIT = -1


class EmbeddingRequest(BaseModel):
    """`POST /v1/embeddings`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Keep so many of a vector's first numbers, and make its length 1 again."""
    truncate_prompt_tokens: Literal[-1] | Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Of a longer text read only so many tokens of its beginning; -1 means as many as the model can."""
    user: str | None = None

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """What is asked for, one entry a vector."""
        given: Any = self.input
        if isinstance(given, str) or isinstance(given[0], int):
            given = [given]
        return given  # type: ignore[no-any-return]


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    """In base64, the numbers are little-endian float32."""


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The answer; `data` is in the order of the input."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def encode_answer(vectors: Vectors, model: str, tokens: int, *, as_base64: bool) -> bytes:
    """An `EmbeddingList` as JSON. Vectors are written as they are: thousands of numbers make no objects."""
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = {"object": "list", "data": data, "model": model, "usage": usage}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(vector: Vectors) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode()
