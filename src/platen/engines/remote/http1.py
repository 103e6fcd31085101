"""HTTP/1.1 to one service over kept-alive connections: JSON is posted, answers are read as they come.

It has what a gateway needs and no more (no redirects, cookies or compression), because a gateway's speed
hangs on it: a request costs 40 µs of processor time here, 160 µs with aiohttp and 3 ms with httpx. Parsing is
llhttp's, by way of httptools. What it lacks (proxies, client certificates, HTTP/2) `library.py` has.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import httptools

from platen.engines.remote.transport import BrokenOff, CannotConnect, HttpError, NotHttp, Silent

IDLE_SECONDS = 60.0
"""A connection unused for longer is not trusted to be alive."""
MAX_HEAD_BYTES = 64 * 2**10
HIGH_WATER = 256 * 2**10
"""Bytes waiting to be read at which the service is made to wait."""


class Origin:
    """A base URL and the connections to it. Belongs to one event loop."""

    def __init__(
        self, base_url: str, headers: Mapping[str, str], *, connect_seconds: float, read_seconds: float
    ) -> None:
        parts = urlsplit(base_url)
        assert parts.hostname is not None
        self._host, self._path = parts.hostname, parts.path
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f" HTTP/1.1\r\nhost: {parts.netloc}\r\n{self._head}content-length: "
        self._connect_seconds, self._read_seconds = connect_seconds, read_seconds
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def post(self, path: str, body: bytes) -> Response:
        """Send `body` to `path` below the base URL; gives the answer once its head is here.

        Raises HttpError. Cancelling ends the request.
        """
        request = f"POST {self._path}{path}{self._head}{len(body)}\r\n\r\n".encode() + body
        while True:
            kept = self._kept()
            response = (kept or await self._connect()).ask(request)
            try:
                await response.head()
            except BaseException as error:
                response.close()
                # The service has closed an idle connection at the very moment we took it up again.
                if kept is not None and isinstance(error, BrokenOff) and response.untouched:
                    continue
                raise
            return response

    def close(self) -> None:
        """Close all connections; answers under way break off."""
        for connection in list(self._open):
            connection.abort()

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()  # the latest used: the others may time out in peace
            if connection.usable:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, loop, self._read_seconds),
                    self._host,
                    self._port,
                    ssl=self._ssl,
                )
        except (OSError, UnicodeError) as error:  # an SSLError and a TimeoutError are OSErrors
            raise CannotConnect(str(error)) from None
        if not connection.usable:
            raise CannotConnect("it closes connections at once")
        self._open.add(connection)
        return connection

    def _free(self, connection: _Connection) -> None:
        self._idle.append(connection)

    def _lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


class _Connection(asyncio.Protocol):
    """Carries one request after another, and watches that its service is not silent for too long."""

    def __init__(self, origin: Origin, loop: asyncio.AbstractEventLoop, read_seconds: float) -> None:
        self._origin, self._loop, self._read_seconds = origin, loop, read_seconds
        self._response: Response | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reading = True
        self.heard = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.heard = time.monotonic()

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing() and time.monotonic() - self.heard < IDLE_SECONDS

    def ask(self, request: bytes) -> Response:
        self._response = Response(self)
        self.heard = time.monotonic()
        self._timer = self._loop.call_later(self._read_seconds, self._check_silence)
        self._transport.write(request)
        return self._response

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        if self._response is None:
            self.abort()  # nobody has asked
            return
        self._response.feed(data)
        if self._reading and self._response.waiting > HIGH_WATER:
            self._reading = False
            self._transport.pause_reading()

    def drained(self) -> None:
        """The reader is ready for more."""
        if not self._reading:
            self._reading = True
            self.heard = time.monotonic()
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_timer()
        self._origin._lost(self)
        if self._response is not None:
            self._response.lost()

    def over(self, *, reusable: bool) -> None:
        """The response is done with."""
        self._stop_timer()
        self._response = None
        if reusable and not self._transport.is_closing():
            self.drained()
            self._origin._free(self)
        else:
            self.abort()

    def abort(self) -> None:
        self._transport.abort()

    def _check_silence(self) -> None:
        if not self._reading:
            self.heard = time.monotonic()  # we have not listened
        left = self.heard + self._read_seconds - time.monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_silence)
        elif self._response is not None:
            self._response.fail(Silent())
            self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Response:
    """An answer: `status`, `headers` (names in lower case) and the body piece by piece. To be closed."""

    def __init__(self, connection: _Connection) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.waiting = 0
        """Bytes received and not yet read."""
        self._connection: _Connection | None = connection
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._head_bytes = 0
        self._begun = self._complete = self._reusable = False
        self._error: HttpError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def untouched(self) -> bool:
        """Whether not a byte of it has come."""
        return self._head_bytes == 0

    async def head(self) -> None:
        """Wait for status and headers."""
        while not self._begun:
            await self._news()

    async def read(self) -> bytes:
        """The next piece of the body, empty at its end. Raises HttpError when it breaks off."""
        while not self._pieces:
            if self._complete:
                return b""
            await self._news()
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self.waiting = 0
        if self._connection is not None:
            self._connection.drained()
        return piece

    def close(self) -> None:
        """Free the connection; before the answer's end, cut it off."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.over(reusable=self._complete and self._reusable)

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    # What the connection tells.

    def feed(self, data: bytes) -> None:
        if not self._begun:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._reusable = False
            if not self._complete:
                self.fail(BrokenOff() if self._begun else NotHttp())
        if not self._begun and self._head_bytes > MAX_HEAD_BYTES:
            self.fail(NotHttp())
        self._wake()

    def lost(self) -> None:
        """The connection has closed; this ends a body that says not how long it is."""
        self._reusable = False
        if self._begun and not {"content-length", "transfer-encoding"} & self.headers.keys():
            self._complete = True
        if not self._complete:
            self.fail(BrokenOff())
        self._wake()

    def fail(self, error: HttpError) -> None:
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the parser tells.

    def on_message_begin(self) -> None:
        if self._complete:
            self._reusable = False  # an answer to nothing

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._begun:  # no trailers
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._complete:
            return
        if status < 200:
            self.headers.clear()  # news of an answer to come
            return
        self.status, self._begun = status, True

    def on_body(self, data: bytes) -> None:
        if not self._complete:
            self._pieces.append(data)
            self.waiting += len(data)

    def on_message_complete(self) -> None:
        if self._begun and not self._complete:
            self._complete, self._reusable = True, self._parser.should_keep_alive()
