"""The server under test: any that speaks OpenAI's completions or chat API with streaming.

Only loopback addresses may be loaded unless the user says that the server is theirs: traffic that looks for a
server's limits is an attack on anyone else's.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from platen.core.errors import ConfigError, PlatenError
from platen.engines.remote.events import DONE, async_data_lines
from platen.loadtest.load_prompts import Ask, Synthetic
from platen.loadtest.records import OK, Record

Api = Literal["completions", "chat"]


class TargetError(PlatenError):
    """The server under test can't be reached, or does not answer as OpenAI's API does."""


@dataclass(frozen=True)
class Target:
    """Where requests go and how. `timeout` is in seconds for a whole request; `ignore_eos` asks for all
    tokens (Platen and vLLM know it).
    """

    url: str
    model: str | None = None
    api: Api = "completions"
    timeout: float = 60.0
    api_key: str | None = None
    ignore_eos: bool = False

    @property
    def base(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1")

    def client(self) -> httpx.AsyncClient:
        """A client without limits of its own: what waits, waits at the server."""
        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return httpx.AsyncClient(
            base_url=self.base,
            headers=headers,
            timeout=httpx.Timeout(self.timeout),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=False,
            verify=self.base.startswith("https"),  # loading certificates takes longer than a first token
        )

    def path(self) -> str:
        return "/v1/completions" if self.api == "completions" else "/v1/chat/completions"

    def body(self, ask: Ask) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "max_tokens": ask.max_tokens, "stream": True}
        body["stream_options"] = {"include_usage": True}
        if self.api == "completions":
            if not isinstance(ask.prompt, str):
                raise ConfigError("the prompts are conversations", hint="Load the chat API: --api chat")
            body["prompt"] = ask.prompt
        else:
            text = isinstance(ask.prompt, str)
            body["messages"] = [{"role": "user", "content": ask.prompt}] if text else list(ask.prompt)
        if self.ignore_eos:
            body["ignore_eos"] = True
        return body


def check_address(url: str, *, own: bool) -> None:
    """Raises ConfigError unless `url` may be loaded: it is on this machine, or the user's `own`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is not a server's address", hint="For example http://127.0.0.1:8000")
    if parts.username or parts.password:
        raise ConfigError("an address must hold no password", hint="Name a variable with --key-env.")
    if own:
        return
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, None)}
    except OSError as error:
        raise ConfigError(f"there is no host {parts.hostname}: {error.strerror}") from None
    if not all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found):
        raise ConfigError(
            f"{parts.hostname} is not this machine",
            hint="Loading someone else's server is an attack on it. If it is yours: --i-own-this-server",
        )


async def open_target(client: httpx.AsyncClient, target: Target) -> Target:
    """`target` with its model's name filled in. Raises TargetError when no answer can be had."""
    try:
        answer = await client.get("/v1/models")
        names = [str(model["id"]) for model in answer.json()["data"]] if answer.is_success else []
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise TargetError(
            f"{target.base} does not answer: {str(error) or type(error).__name__}",
            hint="Is it running, and does it speak OpenAI's API? platen serve starts one.",
        ) from None
    if answer.status_code in (401, 403):
        raise TargetError(f"{target.base} asks for a key", hint="Name its variable: --key-env NAME")
    if target.model is None and not names:
        raise TargetError(f"{target.base} names no model", hint="Give one: --model NAME")
    return target if target.model else replace(target, model=names[0])


async def calibrate(client: httpx.AsyncClient, target: Target, prompts: Synthetic) -> Synthetic:
    """`prompts` with the words that make a token of this server's tokenizer. Raises TargetError."""
    random_ = random.Random(0)
    for wanted in (min(30, prompts.prompt.high), prompts.prompt.high):  # the window may be small
        record = Record(0.0)
        await send(client, target, Ask(prompts.text(wanted, random_), 1), record, lambda: 0.0)
        if not record.ok:
            raise TargetError(f"{target.base} refuses a request: {record.outcome} {record.detail}".rstrip())
        if not record.prompt_tokens:
            return prompts  # it does not count; one word a token is near enough
        prompts = replace(prompts, words_per_token=prompts.words_per_token * wanted / record.prompt_tokens)
    return prompts


async def send(
    client: httpx.AsyncClient, target: Target, ask: Ask, record: Record, now: Callable[[], float]
) -> None:
    """Send one request and note in `record` what becomes of it; raises nothing but cancellation."""
    record.sent = now()
    body = target.body(ask)
    try:
        async with (
            asyncio.timeout(target.timeout),
            client.stream("POST", target.path(), json=body) as answer,
        ):
            if answer.status_code != 200:
                record.outcome = str(answer.status_code)
                record.detail = _message(await answer.aread())
            else:
                await _read(answer, target, record, now)
    except (TimeoutError, httpx.TimeoutException):
        record.outcome = "timeout"
    except httpx.ConnectError as error:
        record.outcome, record.detail = "connection", str(error)
    except httpx.HTTPError as error:
        record.outcome, record.detail = "broken stream", str(error) or type(error).__name__
    record.ended = now()


async def _read(answer: httpx.Response, target: Target, record: Record, now: Callable[[], float]) -> None:
    opened: float | None = None
    async for data in async_data_lines(answer.aiter_bytes()):
        if data == DONE:
            break
        try:
            piece = json.loads(data)
            if "error" in piece:
                record.outcome, record.detail = "broken stream", str(piece["error"].get("message"))
                return
            if piece.get("choices"):
                opened = now() if opened is None else opened
                if _text(piece["choices"][0], target.api):
                    record.pieces.append(now())
            if usage := piece.get("usage"):
                record.prompt_tokens = int(usage["prompt_tokens"])
                record.output_tokens = int(usage["completion_tokens"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            record.outcome, record.detail = "broken stream", f"a piece that can't be read: {error}"
            return
    else:
        record.outcome, record.detail = "broken stream", "it ended without [DONE]"
        return
    if opened is None:
        record.outcome, record.detail = "broken stream", "it had no choices"
        return
    record.pieces = record.pieces or [opened]
    record.output_tokens = record.output_tokens or len(record.pieces)
    record.outcome = OK


def _text(choice: dict[str, Any], api: Api) -> str:
    if api == "completions":
        return choice.get("text") or ""
    delta = choice["delta"]
    return delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning") or ""


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
