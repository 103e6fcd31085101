"""The transport for upstreams behind a proxy, with client certificates or over HTTP/2, on httpx."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

import httpx

from platen.engines.remote.transport import BrokenOff, CannotConnect, HttpError, NotHttp, Silent

IDLE_SECONDS = 60.0
"""A connection unused for longer is closed."""


class LibraryTransport:
    """A base URL and httpx's pool of connections to it. Belongs to one event loop."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        connect_seconds: float,
        read_seconds: float,
        proxy: str | None = None,
        verify: ssl.SSLContext | None = None,
        http2: bool = False,
    ) -> None:
        self._base_url = base_url
        self._client = httpx.AsyncClient(
            headers=dict(headers),
            http2=http2,
            proxy=proxy,
            verify=verify or ssl.create_default_context(),
            timeout=httpx.Timeout(read_seconds, connect=connect_seconds),
            limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
            trust_env=False,  # what the environment says of proxies was decided before
        )
        self._closing: set[asyncio.Task[None]] = set()

    async def post(self, path: str, body: bytes) -> LibraryResponse:
        """As `Transport.post`."""
        request = self._client.build_request("POST", self._base_url + path, content=body)
        try:
            response = await self._client.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
            raise _as_ours(error) from None
        return LibraryResponse(response, self._closing)

    def close(self) -> None:
        """As `Transport.close`."""
        _in_background(self._client.aclose(), self._closing)


class LibraryResponse:
    """As `Response`."""

    def __init__(self, response: httpx.Response, closing: set[asyncio.Task[None]]) -> None:
        self.status = response.status_code
        self.headers = dict(response.headers.items())
        self._response, self._closing = response, closing
        self._chunks: AsyncIterator[bytes] = response.aiter_raw()

    async def read(self) -> bytes:
        try:
            return await anext(self._chunks, b"")
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _as_ours(error) from None

    def close(self) -> None:
        if not self._response.is_closed:
            _in_background(self._response.aclose(), self._closing)


def _in_background(closing: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    """Run httpx's asynchronous close, held until it is done, lest the task be collected before."""
    task = asyncio.create_task(closing)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _as_ours(error: Exception) -> HttpError:
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.ProxyError() | httpx.InvalidURL():
            return CannotConnect(str(error) or type(error).__name__)
        case httpx.TimeoutException():
            return Silent()
        case httpx.RemoteProtocolError() if "without sending" not in str(error):
            return NotHttp()
    return BrokenOff()
