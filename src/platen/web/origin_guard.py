"""What stands before the routes: who may ask, how much they may send, whether work is still taken.

One plain ASGI layer, because it has to see bodies as they arrive and streams until they end.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from platen.web.errors import ApiError, draining
from platen.web.server_state import ServerState

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY_HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Guard:
    """Refuses foreign origins and hosts, oversized bodies and, while draining, new work.

    On a loopback address only loopback names are served, so that a web page can't reach the server by
    pointing a name of its own at it. `allow_any_host` is for servers published on a network.
    """

    def __init__(
        self, app: ASGIApp, *, state: ServerState, allow_any_host: bool, max_body_bytes: int
    ) -> None:
        self._app, self._state = app, state
        self._allow_any_host, self._max_body_bytes = allow_any_host, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _plain(scope)

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_SECURITY_HEADERS]}
            await send(message)

        works = scope["method"] == "POST"
        refusal = self._refusal(dict(scope["headers"]), works)
        if refusal is not None:
            await refusal.response()(scope, receive, secured)
            return
        self._state.active += works
        try:
            await self._app(scope, self._limited(receive), secured)
        finally:
            self._state.active -= works

    def _refusal(self, headers: Mapping[bytes, bytes], works: bool) -> ApiError | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._allow_any_host and not _is_loopback(host):
            return ApiError(
                403, f"This server does not answer to the name '{host}'.", code="host_not_allowed"
            )
        origin = headers.get(b"origin")
        if origin is not None and _authority(origin.decode("latin-1")) != host:
            return ApiError(403, "Only this server's own page may call it.", code="origin_not_allowed")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_body_bytes:
            return self._too_large()
        if works and self._state.draining:
            return draining(self._state.drain_seconds_left + 1)
        return None

    def _limited(self, receive: Receive) -> Receive:
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise HTTPException(413, self._too_large().message)
            return message

        return limited

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"The body is larger than {self._max_body_bytes:,} bytes.", code="body_too_large"
        )


def _plain(scope: Scope) -> Scope:
    """HEAD as GET: the HTTP layer leaves the body out. And every file whole: a range may be ignored, and a
    malformed one would be refused in a text that is no error object.
    """
    if scope["method"] not in ("GET", "HEAD"):
        return scope
    headers = [header for header in scope["headers"] if header[0] != b"range"]
    return {**scope, "method": "GET", "headers": headers}


@lru_cache(64)
def _is_loopback(host: str) -> bool:
    """Whether a Host header names this machine's own loopback, with any port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost" or name.endswith(".localhost"):
            return True
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _authority(origin: str) -> str:
    """Host and port of an Origin header; empty for `null` and for what can't be read."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
