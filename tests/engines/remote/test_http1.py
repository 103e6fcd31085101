"""HTTP/1.1 as services speak it, well and badly, and what becomes of the connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platen.engines.remote.http1 import Origin
from platen.engines.remote.transport import BrokenOff, CannotConnect, HttpError, NotHttp, Silent

Service = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Scripted:
    """Answers each request with the next bytes; with `close` it then closes the connection."""

    def __init__(self, *answers: bytes, size: int = 2**20, close: bool = False) -> None:
        self.answers, self.size, self.close = list(answers), size, close
        self.connections = 0
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(int(head.split(b"length: ")[1])))
                answer = self.answers.pop(0)
                for at in range(0, len(answer), self.size):
                    writer.write(answer[at : at + self.size])
                    await asyncio.sleep(0)
                if self.close:
                    break
            if not self.close:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def origin(service: Service, **seconds: float) -> AsyncIterator[Origin]:
    server = await asyncio.start_server(service, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    found = Origin(
        f"http://127.0.0.1:{port}/v1",
        {"x-one": "1"},
        connect_seconds=seconds.get("connect", 5),
        read_seconds=seconds.get("read", 5),
    )
    try:
        yield found
    finally:
        found.close()
        server.close()


async def whole(origin: Origin, body: bytes = b"{}") -> bytes:
    response = await origin.post("/chat", body)
    try:
        pieces = []
        while piece := await response.read():
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        response.close()


async def test_what_is_sent() -> None:
    service = Scripted(OK)
    async with origin(service) as there:
        assert await whole(there, b'{"a": 1}') == b"ok"
    (request,) = service.requests
    lines = request.split(b"\r\n")
    assert lines[0] == b"POST /v1/chat HTTP/1.1"
    assert lines[1].startswith(b"host: 127.0.0.1:")
    assert lines[2:] == [b"x-one: 1", b"content-length: 8", b"", b'{"a": 1}']


@pytest.mark.parametrize(
    ("answer", "body", "reused"),
    [
        (OK, b"ok", True),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            b"abc",
            True,
        ),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n", b"a", True),
        (b"HTTP/1.1 100 Continue\r\nx: 1\r\n\r\n" + OK, b"ok", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", b"ok", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok", False),
        (OK + OK, b"ok", False),  # the second answers nothing that was asked
        (OK + b"junk", b"ok", False),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_bodies_and_the_connection_after_them(
    answer: bytes, body: bytes, reused: bool, size: int
) -> None:
    service = Scripted(answer, b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond", size=size)
    async with origin(service) as there:
        assert await whole(there) == body
        for _ in range(10 + 2 * len(answer)):  # turns and not time: what comes after an answer has come then
            await asyncio.sleep(0)
        assert await whole(there) == b"second"
    assert service.connections == (1 if reused else 2)


async def test_a_body_without_length_ends_with_the_connection() -> None:
    async with origin(Scripted(b"HTTP/1.1 200 OK\r\n\r\nto the end", close=True)) as there:
        assert await whole(there) == b"to the end"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", BrokenOff),
        (b"HTTP/1.1 200 OK\r\ncont", BrokenOff),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", BrokenOff),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhell", BrokenOff),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", BrokenOff),
        (b"220 mail.example.com ESMTP\r\n", NotHttp),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", NotHttp),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", NotHttp),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, NotHttp),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok", NotHttp),
    ],
)
@pytest.mark.parametrize("size", [3, 10**6])
async def test_what_is_no_answer(answer: bytes, error: type[HttpError], size: int) -> None:
    async with origin(Scripted(answer, size=size, close=True)) as there:
        with pytest.raises(error):
            await whole(there)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_an_answer_or_an_error(data: bytes, after_head: bool) -> None:
    async def run() -> None:
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" if after_head else b""
        async with origin(Scripted(head + data, close=True)) as there:
            try:
                await whole(there)
            except HttpError:
                return

    asyncio.run(run())


async def test_an_idle_connection_that_was_closed_is_replaced() -> None:
    async def closes_when_asked_again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(OK)
        await reader.readuntil(b"{}")
        writer.close()

    async with origin(closes_when_asked_again) as there:
        assert [await whole(there), await whole(there), await whole(there)] == [b"ok"] * 3


async def test_silence_ends_it_wherever_it_falls() -> None:
    for heard in (b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome"):
        async with origin(Scripted(heard), read=0.05) as there:
            with pytest.raises(Silent):
                await whole(there)


async def test_a_slow_reader_makes_the_service_wait() -> None:
    size, written = 64 * 2**20, 0

    async def pours(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(b"x" * 2**16)
            await writer.drain()
            written += 2**16

    async with origin(pours, read=0.2) as there:
        response = await there.post("/chat", b"{}")
        for _ in range(40):  # longer than the silence that is borne, and than the pouring would take
            await asyncio.sleep(0.01)
        assert written < size / 2
        assert response.waiting < 2**20
        received = 0
        while piece := await response.read():
            received += len(piece)
        response.close()
    assert received == size


async def test_closing_the_origin_breaks_off_what_runs() -> None:
    async with origin(Scripted(b"")) as there:
        asking = asyncio.create_task(whole(there))
        while not there._open:
            await asyncio.sleep(0.001)
        there.close()
        with pytest.raises(BrokenOff):
            await asking


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1"])
async def test_nobody_there(url: str) -> None:
    with pytest.raises(CannotConnect):
        await whole(Origin(url, {}, connect_seconds=5, read_seconds=5))


async def test_a_service_without_a_good_certificate_gets_nothing() -> None:
    plain = Scripted(OK)
    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    there = Origin(f"https://127.0.0.1:{port}/v1", {}, connect_seconds=0.3, read_seconds=5)
    assert there._ssl is not None
    assert there._ssl.verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(CannotConnect):
        await whole(there)
    assert plain.requests == []
    server.close()
