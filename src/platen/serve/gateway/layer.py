"""The gateway: requests for a model that is an upstream of the project file are relayed there, all others go
on to this server's own routes.

One plain ASGI layer that works on bytes, because it must cost next to nothing beside the upstream's answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Protocol

import orjson
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from platen.core.errors import ConfigError
from platen.engines.protocol import Timings, Usage
from platen.engines.remote.config import UpstreamConfig
from platen.engines.remote.upstream import Answer, Upstream, UpstreamError
from platen.serve.access.caller import Caller
from platen.serve.gateway.outgoing_request import BYTES_PER_TOKEN, NewGuard, OutgoingGuard, OutgoingRequest
from platen.serve.gateway.relay import EventRelay, relay_whole
from platen.serve.guards.guards import Outgoing
from platen.serve.guards.upstream_screen import RelayedScreen
from platen.serve.hub.served_model import LONG_TEXT
from platen.web.asgi import Hangup, failing, replayed, sends_json, whole_body
from platen.web.errors import ApiError

log = logging.getLogger(__name__)

NewScreens = Callable[[Scope, str], Callable[[], Outgoing]]
"""Makes the guards' screens for what this upstream answers a request."""

RELAYED = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"}
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Observer(Protocol):
    """Whoever measures what the upstreams do."""

    def ended(self, model: str, reason: str, usage: Usage | None, timings: Timings | None) -> None:
        """An upstream has answered; `reason` is `error` where its answer was one, or broke off.

        `timings` are of streams that came to their end.
        """
        ...

    def cancelled(self, model: str) -> None:
        """A request was given up before its end: the client has gone."""
        ...


def open_upstreams(configs: Sequence[UpstreamConfig], local_models: Sequence[str]) -> list[Upstream]:
    """Clients of the upstreams. Raises ConfigError when one of them could not be used as it should be."""
    for config in configs:
        if config.name in local_models:
            raise ConfigError(
                f"the upstream {config.name} has the name of a model that is served here",
                hint="give one of them another name",
            )
    return [Upstream(config) for config in configs]


class Gateway:
    """Relays to `upstreams`, falling back as their configuration says.

    `guard` sees what is sent to those that have `redact: true`; `screens`, if there are any, see what all of
    them answer; `observer` is told of each answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        upstreams: Sequence[Upstream],
        guard: NewGuard,
        observer: Observer | None = None,
        screens: NewScreens | None = None,
    ) -> None:
        self._app, self._guard, self._observer, self._screens = app, guard, observer, screens
        self._upstreams = {upstream.name: upstream for upstream in upstreams}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        posted = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in RELAYED
        if not posted or not sends_json(scope):
            await self._app(scope, receive, send)
            return
        try:
            await self._dispatch(scope, receive, send)
        except ApiError as error:
            await error.response()(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await whole_body(receive)
        except HTTPException as error:  # it is too large, or too slow: the routes say so
            await self._app(scope, failing(error), send)
            return
        if body is None:
            return  # the client has hung up
        request = OutgoingRequest.read(scope["path"], body)
        if request is None or request.model not in self._upstreams:
            await self._app(scope, replayed(body, receive), send)
            return
        state = scope.setdefault("state", {})
        state["model"] = request.model  # for whoever measures
        caller: Caller = state.get("caller") or Caller()
        caller.check_model(request.model)
        await caller.admit(request.model, request.prompt_tokens, request.most_completion_tokens)
        screens = None if self._screens is None else partial(self._screens, scope)
        exchange = _Exchange(request, receive, send, screens)
        local: str | None = None
        try:
            guard = self._guard(scope, request.model)
            local = await exchange.run(self._candidates(request.model), guard)
        finally:
            if local is None:
                caller.settle(exchange.usage.prompt_tokens, exchange.usage.completion_tokens)
            else:
                caller.withdraw()  # the local model's route counts this request
            if self._observer is not None:
                exchange.tell(self._observer)
        if local is not None:
            await self._app(scope, replayed(request.local(local), receive), send)

    def _candidates(self, model: str) -> list[Upstream | str]:
        """What may respond, in order; a string is the name of a model of this server."""
        names = (model, *self._upstreams[model].config.fallbacks)
        return [self._upstreams.get(name, name) for name in names]


class _Exchange:
    """One request relayed. `usage` is what it has cost so far, estimated where the upstream does not tell."""

    def __init__(
        self,
        request: OutgoingRequest,
        receive: Receive,
        send: Send,
        screens: Callable[[str], Callable[[], Outgoing]] | None = None,
    ) -> None:
        self._request, self._receive, self._send, self._screens = request, receive, send, screens
        self._began = perf_counter()
        self._model: str | None = None
        self._reason: str | None = None
        self._timings: Timings | None = None
        self.usage = Usage(0, 0)

    def tell(self, observer: Observer) -> None:
        """What has become of the request, if an upstream answered it."""
        if self._model is not None and self._reason is not None:
            observer.ended(self._model, self._reason, self.usage, self._timings)
        elif self._model is not None:
            observer.cancelled(self._model)

    async def run(self, candidates: Sequence[Upstream | str], guard: OutgoingGuard) -> str | None:
        """Relay the answer of the first candidate that has one, while the client is there.

        Gives the name of a local model when it is its turn. Raises ApiError when none answers.
        """
        hangup = Hangup(self._receive)
        try:
            return await self._first_answer(candidates, guard)
        except asyncio.CancelledError:
            if not hangup.seen:
                raise
            hangup.forgive()
            if self.usage == Usage(0, 0):
                self.usage = self._estimate(0)
            return None
        finally:
            hangup.stop_watching()

    async def _first_answer(self, candidates: Sequence[Upstream | str], guard: OutgoingGuard) -> str | None:
        failures: list[UpstreamError] = []
        for candidate in candidates:
            if isinstance(candidate, str):
                return candidate
            body = await self._request.body(candidate.config, guard if candidate.config.redact else None)
            self._model = candidate.name
            try:
                answer = await candidate.post(self._request.path.removeprefix("/v1"), body)
                try:
                    await self._pass_on(answer, candidate)
                    return None
                finally:
                    answer.close()
            except UpstreamError as error:
                self._model = None
                failures.append(error)
        raise _no_answer(failures)

    async def _pass_on(self, answer: Answer, upstream: Upstream) -> None:
        if answer.status >= 400:
            self._model = None
            raise _refusal(answer, upstream)
        if answer.streams:
            await self._stream(answer, upstream)
            return
        screen = self._screen(upstream)
        relayed = partial(relay_whole, answer.body, upstream.name, screen, upstream.without_key)
        try:
            if screen is None or len(answer.body) < LONG_TEXT:
                whole = relayed()
            else:
                whole = await asyncio.to_thread(relayed)
        except ValueError:
            raise upstream.broke(upstream.garbled()) from None
        if whole.usage:
            self.usage = whole.usage
        elif not whole.failed:
            self.usage = self._estimate(len(whole.body) // BYTES_PER_TOKEN)
        self._reason = "error" if whole.failed else "stop"
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(whole.body))]
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": whole.body})

    async def _stream(self, answer: Answer, upstream: Upstream) -> None:
        """Pass events on as they come. A failure can now only be told inside the stream."""
        relay = EventRelay(
            upstream.name,
            hide_usage=self._request.adds_usage(upstream.config) and not self._request.asks_for_usage,
            screen=self._screen(upstream),
            hide=upstream.without_key,
        )
        await self._send({"type": "http.response.start", "status": answer.status, "headers": _STREAM_HEADERS})
        first, last = perf_counter(), b""
        try:
            piece = answer.body
            while piece:
                if whole := relay.push(piece):
                    await self._send({"type": "http.response.body", "body": whole, "more_body": True})
                piece = b"" if relay.withheld else await answer.more()
            last = relay.finish()
            if not relay.complete:
                raise upstream.broke(upstream.cut_off())
            if relay.failed:
                self._reason = "error"
            else:
                self._reason = "content_filter" if relay.withheld else "stop"
                self._timings = Timings(0.0, first - self._began, perf_counter() - first)
        except ValueError:
            self._reason = "error"
            last = _event(upstream.broke(upstream.garbled()))
        except UpstreamError as error:
            log.warning("%s", error.message)
            self._reason = "error"
            last += _event(error)
        finally:
            self.usage = relay.usage or self._estimate(relay.events)
        await self._send({"type": "http.response.body", "body": last})

    def _screen(self, upstream: Upstream) -> RelayedScreen | None:
        """What looks over the upstream's answer; None when nothing does."""
        return (
            None
            if self._screens is None
            else RelayedScreen(self._screens(upstream.name), self._request.choices)
        )

    def _estimate(self, completion_tokens: int) -> Usage:
        return Usage(self._request.prompt_tokens, completion_tokens)


def _refusal(answer: Answer, upstream: Upstream) -> ApiError:
    """The upstream's own words on what is wrong with the request, as far as they are an error object."""
    error: object = None
    with contextlib.suppress(orjson.JSONDecodeError):
        document = orjson.loads(upstream.without_key(answer.body))
        error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        message = f"The upstream '{upstream.name}' refused the request ({answer.status})."
        if answer.status == 404:
            message += " Perhaps its base_url is not the right address."
        return ApiError(answer.status, message, code="upstream_refused")
    param, code = error.get("param"), error.get("code")
    return ApiError(
        answer.status,
        error["message"],
        param=param if isinstance(param, str) else None,
        code=code if isinstance(code, str) else "upstream_refused",
    )


def _no_answer(failures: Sequence[UpstreamError]) -> ApiError:
    """Why there is no response: what the upstream did, and that its fallbacks failed too."""
    error = _api_error(failures[0])
    if len(failures) > 1:
        error.message += f" Nor did its fallback{'s' if len(failures) > 2 else ''} answer."
    return error


def _event(error: UpstreamError) -> bytes:
    """A failure as it is told within a stream."""
    return b"data: " + orjson.dumps(_api_error(error).body()) + b"\n\n"


def _api_error(error: UpstreamError) -> ApiError:
    code = "upstream_overloaded" if error.status == 429 else "upstream_failed"
    return ApiError(error.status, error.message, code=code, retry_after=error.retry_after)
