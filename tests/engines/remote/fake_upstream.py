"""An upstream that does as it is told: each request is answered by the next action of its script."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Action = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
"""Answers one request; whether the connection stays open."""

STAMP = {"id": "x-1", "created": 1_700_000_000, "model": "their-model"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class FakeUpstream:
    url: str = ""
    script: list[Action] = field(default_factory=list)
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    hung_up: threading.Event = field(default_factory=threading.Event)
    """Set when the other side closes a connection while `silence` or an endless stream answers."""
    loop: asyncio.AbstractEventLoop = field(init=False)
    stop: asyncio.Event = field(init=False)

    def bodies(self, key: str) -> list[Any]:
        return [request.body.get(key) for request in self.requests]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._answer_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.requests.append(Received(first.split(" ")[1], headers, body))
        return await self.script.pop(0)(reader, writer)

    # -- actions ---------------------------------------------------------------------------------------

    def silence(self) -> Action:
        """No answer ever."""

        async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            await self._until_hung_up(reader)
            return False

        return act

    def stream_without_end(self, *events: object) -> Action:
        """Some events, then silence."""

        async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            writer.write(_stream_head() + b"".join(map(_chunk, map(_event, events))))
            await self._until_hung_up(reader)
            return False

        return act

    async def _until_hung_up(self, reader: asyncio.StreamReader) -> None:
        try:
            while await reader.read(1000):
                pass
        finally:
            self.hung_up.set()


def answer(status: int, body: object = None, **headers: str) -> Action:
    """A whole answer; `body` is JSON, or bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    given = {"content_type": "application/json"} | headers | {"content_length": str(len(content))}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())
    return raw(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + content)


def error(status: int, message: str, **fields: object) -> Action:
    return answer(status, {"error": {"message": message, "type": "invalid_request_error"} | fields})


def raw(data: bytes, *, close: bool = False) -> Action:
    async def act(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        await writer.drain()
        return not close

    return act


def drop() -> Action:
    """Close the connection without a word."""
    return raw(b"", close=True)


def stream(*events: object, done: bool = True) -> Action:
    """Server-sent events, each JSON; without `done` the connection drops in the middle."""
    chunks = b"".join(map(_chunk, map(_event, events)))
    end = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n" if done else b""
    return raw(_stream_head() + chunks + end, close=not done)


def _stream_head() -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _event(event: object) -> bytes:
    """Bytes as they are, anything else as JSON."""
    if isinstance(event, bytes):
        return event
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# -- answers of OpenAI's APIs --------------------------------------------------------------------------


def chat(text: str) -> Action:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return answer(200, {**STAMP, "object": "chat.completion", "choices": [choice], "usage": USAGE})


def chat_event(text: str | None, reason: str | None = None) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {**STAMP, "object": "chat.completion.chunk", "choices": [choice], "usage": None}


USAGE_EVENT = {**STAMP, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}


def chat_stream(*texts: str) -> Action:
    """A stream as from a service that was asked for its token counts."""
    return stream(*map(chat_event, texts), chat_event(None, "stop"), USAGE_EVENT)


@contextmanager
def fake_upstream(*script: Action, tls: ssl.SSLContext | None = None) -> Iterator[FakeUpstream]:
    """A running one, in a thread of its own; with `tls` over HTTPS."""
    fake = FakeUpstream(script=list(script))
    ready = threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(fake.handle, "127.0.0.1", 0, ssl=tls)
        fake.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        fake.loop, fake.stop = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        await fake.stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield fake
    finally:
        fake.loop.call_soon_threadsafe(fake.stop.set)
        thread.join(10)
