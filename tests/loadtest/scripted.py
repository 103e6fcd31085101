"""A scripted OpenAI-style server on a loopback port, whose answers and delays a test decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


def piece(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def usage(prompt: int, output: int) -> bytes:
    counted = {"prompt_tokens": prompt, "completion_tokens": output}
    return b"data: " + json.dumps({"choices": [], "usage": counted}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
Stream = Callable[[dict[str, Any]], AsyncIterator[bytes]]


async def three_tokens(body: dict[str, Any]) -> AsyncIterator[bytes]:
    """Three pieces, and as many prompt tokens as there are words."""
    for text in ("a", " b", " c"):
        yield piece(index=0, text=text)
    yield usage(len(body["prompt"].split()), 3)
    yield DONE


@dataclass
class Script:
    """What the server does: `stream` answers, unless `refuse` gives a status for a request."""

    stream: Stream = three_tokens
    refuse: Callable[[int], int | None] = lambda number: None
    seen: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    at_once: int = 0
    most_at_once: int = 0


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Script]:
    """Serve `script` over plain HTTP/1.1, a connection a request."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            if head.startswith("get"):
                await answer(writer, 200, json.dumps({"data": [{"id": "m"}]}))
                return
            length = int(head.split("content-length:")[1].split("\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            script.seen.append(body)
            if status := script.refuse(len(script.seen)):
                await answer(writer, status, json.dumps({"error": {"message": "no"}}))
                return
            script.at_once += 1
            script.most_at_once = max(script.most_at_once, script.at_once)
            try:
                writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
                async for part in script.stream(body):
                    writer.write(part)
                    await writer.drain()
            finally:
                script.at_once -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield script
    finally:
        server.close()


async def answer(writer: asyncio.StreamWriter, status: int, body: str) -> None:
    head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    writer.write((head + body).encode())
    await writer.drain()
