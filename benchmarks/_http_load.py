"""A load generator for HTTP servers, and a mock upstream for gateways: neither may be what is measured.

`load` keeps a number of connections busy with one canned request and tells how many answers came, and how
long each took. Run as a script, this module is the mock: it answers every request at once with a chat
completion, streamed if the request says so.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time
from dataclasses import dataclass, field

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
STREAMED_EVENTS = 20


@dataclass
class Seen:
    """Answers of one run: seconds each took to its first byte of content and to its end."""

    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.whole) / self.seconds

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.whole) * 1000

    @property
    def first_p50_ms(self) -> float:
        return statistics.median(self.first) * 1000


def load(
    port: int, body: dict[str, object], *, connections: int, seconds: float, key: str | None = None
) -> Seen:
    """Post `body` to /v1/chat/completions over kept-alive connections, each waiting for its answer.

    Raises RuntimeError when an answer is no success or a connection is lost.
    """
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    )
    if key:
        head += f"authorization: Bearer {key}\r\n"
    request = f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
    return uvloop.run(_load(port, request, connections, seconds))


async def _load(port: int, request: bytes, connections: int, seconds: float) -> Seen:
    loop = asyncio.get_running_loop()
    seen = Seen()
    until = time.perf_counter() + seconds
    pairs = [
        await loop.create_connection(lambda: _Asker(request, until, seen), "127.0.0.1", port)
        for _ in range(connections)
    ]
    began = time.perf_counter()
    for _, asker in pairs:
        asker.ask()
    await asyncio.gather(*(asker.done for _, asker in pairs))
    seen.seconds = time.perf_counter() - began
    for transport, _ in pairs:
        transport.close()
    return seen


class _Asker(asyncio.Protocol):
    """One connection: asks, waits for the end of the answer, asks again."""

    def __init__(self, request: bytes, until: float, seen: Seen) -> None:
        self._request, self._until, self._seen = request, until, seen
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or transport
        self._transport = transport

    def ask(self) -> None:
        self._received, self._content_at, self._length = b"", -1, -1
        self._began = time.perf_counter()
        self._first = 0.0
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._content_at < 0:
            self._content_at = self._received.find(b"\r\n\r\n") + 4
            if self._content_at < 4:
                self._content_at = -1
                return
            if not self._received.startswith(b"HTTP/1.1 200"):
                self._fail(f"answered {self._received[:600].decode(errors='replace')}")
                return
            found = _LENGTH.search(self._received, 0, self._content_at)
            self._length = int(found[1]) if found else -1
        here = len(self._received) - self._content_at
        if here and not self._first:
            self._first = time.perf_counter() - self._began
        if here == self._length or (self._length < 0 and self._received.endswith(b"\r\n0\r\n\r\n")):
            now = time.perf_counter()
            self._seen.first.append(self._first)
            self._seen.whole.append(now - self._began)
            if now < self._until:
                self.ask()
            elif not self.done.done():
                self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("closed the connection")

    def _fail(self, what: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"the server {what}"))


# -- the mock upstream ---------------------------------------------------------------------------------

_STAMP = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "mock-1"}
_USAGE = {"prompt_tokens": 12, "completion_tokens": STREAMED_EVENTS, "total_tokens": 12 + STREAMED_EVENTS}


def _whole() -> bytes:
    message = {"role": "assistant", "content": "word " * STREAMED_EVENTS}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    answer = {**_STAMP, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    body = json.dumps(answer).encode()
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )


def _stream() -> bytes:
    def chunk(**fields: object) -> bytes:
        event = {**_STAMP, "object": "chat.completion.chunk", **fields}
        return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"

    def choice(delta: dict[str, str], reason: str | None = None) -> list[object]:
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    events = [chunk(choices=choice({"role": "assistant", "content": "word "}))]
    events += [chunk(choices=choice({"content": "word "})) for _ in range(STREAMED_EVENTS - 1)]
    events += [chunk(choices=choice({}, "stop")), chunk(choices=[], usage=_USAGE), b"data: [DONE]\n\n"]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


class _Mock(asyncio.Protocol):
    WHOLE, STREAM = _whole(), _stream()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._received = transport, b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n") + 4) > 3:
            found = _LENGTH.search(self._received, 0, end)
            end += int(found[1]) if found else 0
            if len(self._received) < end:
                return
            request, self._received = self._received[:end], self._received[end:]
            streamed = b'"stream":true' in request or b'"stream": true' in request
            self._transport.write(self.STREAM if streamed else self.WHOLE)  # type: ignore[attr-defined]


async def _serve_mock() -> None:
    server = await asyncio.get_running_loop().create_server(_Mock, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        uvloop.run(_serve_mock())
    except KeyboardInterrupt:
        sys.exit(0)
