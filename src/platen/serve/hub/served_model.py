"""A model as the server sees it: its engine, its tokenizer and what clients are told of it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

from platen.engines.protocol import Engine, EngineStats
from platen.models.generation_config import NO_DEFAULTS, SamplingDefaults
from platen.prompts.encoding import (
    ModelKind,
    chat_prompt,
    text_prompt,
    truncated_chat_prompt,
    truncated_text_prompt,
)
from platen.prompts.infill import InfillFormat, infill_format, infill_prompt
from platen.prompts.templates import ChatTemplateError, TemplateOptions
from platen.prompts.tools import ToolFormat, tool_format
from platen.serve.api.openai_types import ModelCard
from platen.serve.guards.guards import Incoming
from platen.tokens.tokenizer import Tokenizer
from platen.web.errors import ApiError

T = TypeVar("T")

LONG_TEXT = 20_000
"""Characters from which a text is tokenized on a thread, so that other streams do not wait."""


class RefusedPrompt(list[int]):
    """A prompt that a guard refuses: it is answered with `refusal` and never reaches the model."""

    def __init__(self, ids: list[int], refusal: str) -> None:
        super().__init__(ids)
        self.refusal = refusal


@dataclass(frozen=True)
class ModelInfo:
    """What clients are told of the model. `kind` base continues text; chat was trained on turns; embedding
    writes nothing.

    `version` tells the models apart that come to answer to one name: the beginning of the `fingerprint`, by
    which `platen models find` gives the registered version.
    """

    name: str
    context_window: int
    parameters: int
    kind: ModelKind | Literal["embedding"]
    fingerprint: str
    created: int
    version: str = "1"
    registered: str | None = None
    """MODEL@NUMBER in a registry, where that is known."""
    defaults: SamplingDefaults = NO_DEFAULTS
    """What a request is given that says nothing of how to sample."""

    def card(self) -> ModelCard:
        return ModelCard(
            id=self.name,
            created=self.created,
            context_window=self.context_window,
            parameters=self.parameters,
            kind=self.kind,
            version=self.version,
            fingerprint=self.fingerprint,
            registered=self.registered,
            default_sampling_params=self.defaults.as_dict() or None,
        )


class Worker(Protocol):
    """What does a model's work, whatever that is."""

    def stats(self) -> EngineStats: ...

    async def close(self) -> None: ...


class AnyModel(Protocol):
    """A model of any kind, as the hub holds it."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def source(self) -> str: ...

    @property
    def engine(self) -> Worker: ...


def writer(model: AnyModel) -> ServedModel:
    """The model, if it is one that generates text; raises ApiError if not."""
    if isinstance(model, ServedModel):
        return model
    raise ApiError(
        400,
        f"The model '{model.info.name}' makes embeddings; it does not write text.",
        param="model",
        code="model_not_supported",
    )


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One loaded version of a model. `source` is what it was loaded from, as it was asked for."""

    engine: Engine
    tokenizer: Tokenizer
    info: ModelInfo
    source: str = ""
    incoming: Incoming | None = None
    """Screens the texts of a request before they become tokens."""

    def guarded(self, incoming: Incoming | None) -> ServedModel:
        """The model with `incoming` before it, if there is one."""
        return self if incoming is None else replace(self, incoming=incoming)

    @property
    def tool_format(self) -> ToolFormat | None:
        """How the model formats tool calls; None when it was not trained for them."""
        return tool_format(self.tokenizer)

    @cached_property
    def infill_format(self) -> InfillFormat | None:
        """How the model is asked to fill in the middle; None when it can't."""
        return infill_format(self.tokenizer)

    async def text_prompts(self, texts: Sequence[str], room: int | None) -> list[list[int]]:
        """Token ids of prompts, of each at most the last `room`. Raises ApiError when there are none."""
        refusal = None
        if self.incoming is not None:
            texts, refusal = await self.incoming.prompts(texts)

        def work() -> list[list[int]]:
            if room is None:
                return [text_prompt(self.tokenizer, text) for text in texts]
            return [truncated_text_prompt(self.tokenizer, text, room) for text in texts]

        try:
            prompts = await tokenize(sum(map(len, texts)), work)
        except ValueError as error:
            raise ApiError(400, f"{error}.", param="prompt", code="invalid_value") from None
        return prompts if refusal is None else [RefusedPrompt(ids, refusal) for ids in prompts]

    async def id_prompts(self, prompts: list[list[int]]) -> list[list[int]]:
        """Prompts that came as ids: as they are, unless their text is screened and has to be changed."""
        if self.incoming is None:
            return prompts
        texts = [self.tokenizer.decode(ids) for ids in prompts]
        kept, refusal = await self.incoming.prompts(texts)
        if refusal is not None:
            return [RefusedPrompt(ids, refusal) for ids in prompts]
        return [
            ids if text == before else text_prompt(self.tokenizer, text)
            for ids, before, text in zip(prompts, texts, kept, strict=True)
        ]

    async def plain_tokens(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text, with the tokenizer's special tokens or without."""
        return await tokenize(
            len(text), lambda: self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        )

    async def infill_prompts(
        self, format: InfillFormat, prefixes: Sequence[str], suffix: str
    ) -> list[list[int]]:
        """Ids that ask for what stands between each of the prefixes and the suffix."""
        refusal = None
        if self.incoming is not None:
            (*prefixes, suffix), refusal = await self.incoming.prompts([*prefixes, suffix])

        def work() -> list[list[int]]:
            return [infill_prompt(self.tokenizer, format, prefix, suffix) for prefix in prefixes]

        prompts = await tokenize(sum(map(len, prefixes)) + len(suffix) * len(prefixes), work)
        return prompts if refusal is None else [RefusedPrompt(ids, refusal) for ids in prompts]

    async def chat_prompt(
        self,
        messages: list[dict[str, Any]],
        room: int | None,
        options: TemplateOptions,
        *,
        param: str = "messages",
    ) -> list[int]:
        """Ids of a conversation, less the oldest turns that would make it longer than `room`.

        Always on a thread: a template is a program that comes with the model, and may take its time.
        Raises ApiError, naming the request's field `param`, when the model's template refuses it.
        """
        refusal = None
        if self.incoming is not None:
            messages, refusal = await self.incoming.chat(messages)
            options, refused = await _screened(options, self.incoming)
            refusal = refusal or refused

        def work() -> list[int]:
            if room is None:
                return chat_prompt(self.tokenizer, messages, options)
            return truncated_chat_prompt(self.tokenizer, messages, room, options)

        try:
            ids = await asyncio.to_thread(work)
        except (ChatTemplateError, ValueError) as error:
            raise ApiError(400, str(error), param=param, code="invalid_messages") from None
        return ids if refusal is None else RefusedPrompt(ids, refusal)


async def _screened(options: TemplateOptions, incoming: Incoming) -> tuple[TemplateOptions, str | None]:
    """With the texts of documents and variables as `incoming` leaves them; and its refusal, if it refuses."""
    texts: list[str] = []

    def collected(value: Any) -> None:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, (list, dict)):
            for item in value.values() if isinstance(value, dict) else value:
                collected(item)

    given = [list(options.documents or ()), dict(options.variables or {})]
    collected(given)
    if not texts:
        return options, None
    kept, refusal = await incoming.prompts(texts)
    left = iter(kept)

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return next(left)
        if isinstance(value, list):
            return [replaced(item) for item in value]
        return {key: replaced(item) for key, item in value.items()} if isinstance(value, dict) else value

    documents, variables = replaced(given)
    return replace(options, documents=documents or options.documents, variables=variables), refusal


async def tokenize(characters: int, work: Callable[[], T]) -> T:
    """Do the work, on a thread if the text is long."""
    return work() if characters < LONG_TEXT else await asyncio.to_thread(work)


@dataclass(frozen=True)
class Stamp:
    """What every chunk of one response carries."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def new(cls, prefix: str, info: ModelInfo) -> Stamp:
        return cls(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), info.name, f"fp_{info.fingerprint[:12]}")
