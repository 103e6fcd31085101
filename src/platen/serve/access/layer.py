"""Who may ask, and for what: API keys, scopes and requests a minute, in one plain ASGI layer.

The layer leaves the `Caller` in the scope's state; the work itself asks that for the model and its tokens,
which only it knows. Keys are held in memory and brought up to date every second, so that checking one takes
microseconds and revoking one works in seconds.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from platen.core.errors import PlatenError
from platen.core.state.interface import State
from platen.serve.access.caller import Books, Caller, KeyHolder
from platen.serve.access.keys import Scope as KeyScope
from platen.serve.access.keys import parts_of
from platen.serve.access.keystore import KeyStore
from platen.serve.access.rate_limits import Counts
from platen.serve.access.usage import SYNC_SECONDS, Ledger
from platen.serve.config import ServeConfig
from platen.web.errors import ApiError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OPEN = frozenset({"/", "/health", "/openapi.json", "/v2/health/live", "/v2/health/ready"})
_OPEN_FILES = "/static/"
_ADMIN = ("/admin/", "/v2/repository/")
_LOWEST = -1
_FOR_ANYONE = (KeyScope.infer, KeyScope.models)
"""What needs no key where keys are optional."""


class AccessError(PlatenError):
    """Keys are asked for and there is no place for them."""

    exit_code = 2


class AccessControl:
    """Knows a server's keys and counts what they use. `state` is the project's, where the keys are.

    Raises AccessError when there are to be keys and no project, StateError, LimitsStoreError.
    """

    def __init__(self, config: ServeConfig, state: State | None = None) -> None:
        self._config = config
        self._books: Books | None = None
        self._first_sync: asyncio.Task[None] | None = None
        self._syncing: asyncio.Task[None] | None = None
        if config.keys == "off":
            return
        if state is None:
            raise AccessError(
                f"serve.keys is '{config.keys}', and keys are kept in a project",
                hint="Name the project: --project FOLDER.",
            )
        ledger = Ledger(KeyStore(state))
        self._books = Books(ledger, Counts(config.limits_store), config.prices)

    async def identify(self, authorization: bytes | None, scope: KeyScope) -> Caller:
        """Whoever sends this Authorization header. Raises ApiError unless they may do what `scope` names."""
        if self._books is None:
            return Caller()
        if authorization is None and self._config.keys == "optional" and scope in _FOR_ANYONE:
            return Caller(priority=_LOWEST)
        await self._up_to_date(self._books.ledger)
        return _holder(self._books, authorization, scope)

    async def _up_to_date(self, ledger: Ledger) -> None:
        """Keep the keys as the file has them, from the first request on: only then there is a loop."""
        if self._first_sync is None:
            self._first_sync = asyncio.ensure_future(ledger.sync())
            self._syncing = asyncio.ensure_future(_sync_forever(ledger))
        if not self._first_sync.done():
            await asyncio.shield(self._first_sync)

    def warnings(self) -> list[str]:
        """What whoever starts the server should know."""
        if self._books is None:
            if self._config.host in LOOPBACK:
                return []
            return [
                f"anyone who reaches {self._config.host} may use this server: it asks for no keys "
                "(serve.keys: required, and platen keys create NAME)"
            ]
        if self._books.ledger.empty:
            return ["there are no keys yet: platen keys create NAME"]
        return []

    def close(self) -> None:
        """Write down what was used, at the end."""
        if self._books is not None:
            self._books.ledger.close()


async def _sync_forever(ledger: Ledger) -> None:
    while True:
        await asyncio.sleep(SYNC_SECONDS)
        await ledger.sync()


def _holder(books: Books, authorization: bytes | None, scope: KeyScope) -> KeyHolder:
    if authorization is None:
        raise _unauthorized("This server asks for an API key. Send it as 'Authorization: Bearer KEY'.")
    scheme, _, presented = authorization.partition(b" ")
    parts = parts_of(presented.strip()) if scheme.lower() == b"bearer" else None
    key = books.ledger.key(parts[0]) if parts else None
    if parts is None or key is None or not key.matches(parts[1]):
        raise _unauthorized("This API key is not valid here.")
    state = key.state(datetime.now(UTC))
    if state != "active":
        raise _unauthorized(f"This API key is {state}.")
    if scope not in key.grant.scopes:
        raise ApiError(
            403, f"This API key does not have the scope '{scope}'.", code="insufficient_permissions"
        )
    return KeyHolder(key, books)


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


class Access:
    """Lets a request through to `app` if its caller may make it."""

    def __init__(self, app: ASGIApp, *, control: AccessControl) -> None:
        self._app, self._control = app, control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        needed = _needed(scope["method"], scope["path"])
        caller = Caller()

        async def with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *caller.headers()]}
            await send(message)

        try:
            if needed is not None:
                caller = await self._control.identify(_authorization(scope), needed)
            if needed is KeyScope.infer:
                await caller.count_request()
        except ApiError as refusal:
            await refusal.response()(scope, receive, with_limits)
            return
        scope.setdefault("state", {})["caller"] = caller
        try:
            await self._app(scope, receive, with_limits)
        finally:
            caller.settle(0, 0)  # nothing, unless the work failed before it could say what it had used


def caller_of(request: Request) -> Caller:
    """Who makes a request that came through the layer."""
    caller = request.scope["state"]["caller"]
    assert isinstance(caller, Caller)
    return caller


def _needed(method: str, path: str) -> KeyScope | None:
    """The scope that a request needs; None when it needs no key."""
    if path in _OPEN or path.startswith(_OPEN_FILES):
        return None
    if path == "/metrics":
        return KeyScope.metrics
    if path.startswith(_ADMIN):
        return KeyScope.admin
    return KeyScope.models if method in ("GET", "HEAD", "OPTIONS") else KeyScope.infer


def _authorization(scope: Scope) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == b"authorization"), None)
