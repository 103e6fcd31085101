"""What the routes share: the engine, the tokenizer, the model's description and the server's state."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from platen.engines.prompts import ModelKind, chat_prompt, text_prompt
from platen.engines.protocol import Engine
from platen.serve.errors import ApiError
from platen.serve.openai_types import ModelCard
from platen.tokens.tokenizer import ChatTemplateError, Tokenizer

LONG_TEXT = 20_000
"""Characters from which a text is tokenized on a thread, so that other streams go on meanwhile."""


@dataclass(frozen=True)
class ModelInfo:
    """What clients are told of the model. `kind` base continues text; chat was trained on turns."""

    name: str
    context_window: int
    parameters: int
    kind: ModelKind
    fingerprint: str
    created: int

    def card(self) -> ModelCard:
        return ModelCard(
            id=self.name,
            created=self.created,
            context_window=self.context_window,
            parameters=self.parameters,
            kind=self.kind,
        )


@dataclass
class ServerState:
    """`active` counts requests being answered; while `draining` new ones are refused."""

    draining: bool = False
    active: int = 0
    drain_until: float = 0.0

    def start_draining(self, seconds: float) -> None:
        """Refuse what comes from now on and give what runs this long to finish."""
        if not self.draining:
            self.drain_until = time.monotonic() + seconds
            self.draining = True

    @property
    def drain_seconds_left(self) -> float:
        return max(0.0, self.drain_until - time.monotonic())


@dataclass(frozen=True)
class ServeContext:
    engine: Engine
    tokenizer: Tokenizer
    info: ModelInfo
    state: ServerState = field(default_factory=ServerState)

    def check_model(self, name: str) -> None:
        """Raises ApiError unless `name` is the model served here."""
        if name != self.info.name:
            raise ApiError(
                404,
                f"The model '{name}' does not exist here; this server has '{self.info.name}'.",
                param="model",
                code="model_not_found",
            )

    async def text_prompt(self, text: str) -> list[int]:
        """Ids of a text to continue. Raises ApiError when there are none."""
        try:
            return await _tokenize(len(text), lambda: text_prompt(self.tokenizer, text))
        except ValueError as error:
            raise ApiError(400, f"{error}.", param="prompt", code="invalid_value") from None

    async def chat_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of a conversation. Raises ApiError when the model's template refuses it."""
        size = sum(len(message["content"]) for message in messages)
        try:
            return await _tokenize(size, lambda: chat_prompt(self.tokenizer, messages))
        except (ChatTemplateError, ValueError) as error:
            raise ApiError(400, str(error), param="messages", code="invalid_messages") from None


async def _tokenize(characters: int, work: Callable[[], list[int]]) -> list[int]:
    return work() if characters < LONG_TEXT else await asyncio.to_thread(work)


@dataclass(frozen=True)
class Stamp:
    """What every piece of one answer carries."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def new(cls, prefix: str, info: ModelInfo) -> Stamp:
        return cls(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), info.name, f"fp_{info.fingerprint[:12]}")
