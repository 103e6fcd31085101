"""A client's request as it is sent on to an upstream: under the upstream's name of the model, asking for
token counts, and through the outgoing guard where the upstream has `redact: true`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import Scope

from platen.engines.remote.config import UpstreamConfig
from platen.serve.hub.served_model import LONG_TEXT
from platen.web.errors import ApiError

OutgoingGuard = Callable[[str], str]
"""Gives a text as it may leave, or refuses it: raises ApiError."""
NewGuard = Callable[[Scope, str], OutgoingGuard]
"""The guard of one request for the upstream of this name."""

BYTES_PER_TOKEN = 4
"""Of English text; for estimates where only the upstream could count."""
USUAL_TOKENS = 256
"""What an answer without a limit is expected to be long."""
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_TEXTS = (
    *("messages", "prompt", "suffix", "input", "instructions", "prediction"),
    *("documents", "chat_template_kwargs"),
)
_NO_TEXTS = frozenset(
    ("role", "type", "id", "call_id", "tool_call_id", "item_id", "detail", "format", "status")
)


@dataclass(frozen=True)
class OutgoingRequest:
    """A request whose `model` was read; `size` is its body's, in bytes."""

    path: str
    document: dict[str, Any]
    size: int

    @classmethod
    def read(cls, path: str, body: bytes) -> OutgoingRequest | None:
        """None when the body is no JSON object that names a model: others will say what is wrong with it."""
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            try:  # with a byte order mark, or in UTF-16: the routes take that too
                document = orjson.loads(body.decode(json.detect_encoding(body)))
            except ValueError:
                return None
        if not isinstance(document, dict) or not isinstance(document.get("model"), str):
            return None
        return cls(path, document, len(body))

    @property
    def model(self) -> str:
        return str(self.document["model"])

    @property
    def streams(self) -> bool:
        return bool(self.document.get("stream"))

    @property
    def asks_for_usage(self) -> bool:
        """Whether the client wants token counts in its stream."""
        options = self.document.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))

    def adds_usage(self, config: UpstreamConfig) -> bool:
        """Whether to ask for token counts in the stream. OpenAI's Responses always have them."""
        return self.streams and config.stream_usage and self.path.endswith("/completions")

    @property
    def prompt_tokens(self) -> int:
        """About as many tokens as were sent: the upstream's tokenizer is not known here."""
        return max(1, self.size // BYTES_PER_TOKEN)

    @property
    def most_completion_tokens(self) -> int:
        """About as many tokens as may be written: the request's own limit, or what answers usually need."""
        if self.path == "/v1/embeddings":
            return 0
        limits = [limit for key in _LIMITS if isinstance(limit := self.document.get(key), int) and limit > 0]
        return min(limits, default=USUAL_TOKENS) * self.choices

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        n = self.document.get("n")
        return n if isinstance(n, int) and n > 0 else 1

    def local(self, model: str) -> bytes:
        """The body for a model of this server."""
        return orjson.dumps(self.document | {"model": model})

    async def body(self, config: UpstreamConfig, guard: OutgoingGuard | None) -> bytes:
        """The body for an upstream. Raises ApiError when the guard, if there is one, refuses it."""
        document = self.document | {"model": config.remote_model}
        if guard is not None:
            document = await self._guarded(document, guard)
        if self.adds_usage(config):
            options = document.get("stream_options")
            document["stream_options"] = (options if isinstance(options, dict) else {}) | {
                "include_usage": True
            }
        return orjson.dumps(document)

    async def _guarded(self, document: dict[str, Any], guard: OutgoingGuard) -> dict[str, Any]:
        for param in ("prompt", "input"):
            _refuse_token_ids(document.get(param), param)

        def work() -> dict[str, Any]:
            try:
                return document | {key: _guarded(document[key], guard) for key in _TEXTS if key in document}
            except RecursionError:
                raise ApiError(400, "The body is nested too deeply.", code="invalid_body") from None

        return work() if self.size < LONG_TEXT else await asyncio.to_thread(work)


def _guarded(value: Any, guard: OutgoingGuard) -> Any:
    """`value` with every text in it as the guard lets it out."""
    if isinstance(value, str):
        # A picture or file within the URL has no words to find, and would not survive a change.
        return value if value.startswith("data:") and ";base64," in value[:100] else guard(value)
    if isinstance(value, list):
        return [_guarded(item, guard) for item in value]
    if isinstance(value, dict):
        return {key: item if key in _NO_TEXTS else _guarded(item, guard) for key, item in value.items()}
    return value


def _refuse_token_ids(value: Any, param: str) -> None:
    if isinstance(value, list) and any(isinstance(item, int | list) for item in value):
        raise ApiError(
            400,
            "Token ids can't be looked through before they leave this server; send text.",
            param=param,
            code="token_ids_not_allowed",
        )
