"""One model at an OpenAI-compatible service elsewhere: sends it requests over pooled connections, again when
that may help, and none while it is known to be down. Gives the answer, or an UpstreamError that says why not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from platen import __version__
from platen.engines.remote.breaker import Breaker
from platen.engines.remote.config import UpstreamConfig
from platen.engines.remote.connect import check_certificates, open_transport
from platen.engines.remote.retries import is_transient, retry_after_seconds, wait_before_retry
from platen.engines.remote.transport import CannotConnect, HttpError, NotHttp, Response, Silent, Transport

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 64 * 2**20
"""A longer answer in one piece is taken for a fault of the service."""


class UpstreamError(Exception):
    """The service gave no answer.

    `status` is the HTTP status that tells this to whoever asked. `retryable`: the same may work in a moment.
    `fault`: the service itself does not work, rather than being busy or refusing us.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 502,
        retry_after: float | None = None,
        retryable: bool = False,
        fault: bool = True,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.retry_after = message, status, retry_after
        self.retryable, self.fault = retryable, fault


@dataclass
class Answer:
    """A success, or a refusal of this very request (status 4xx). Close it when done with it.

    `body` is all of it, or of a stream of server-sent events the beginning.
    """

    status: int
    body: bytes
    streams: bool
    _upstream: Upstream
    _response: Response
    _open: bool = True

    async def more(self) -> bytes:
        """The next piece after `body`, empty at the end. Raises UpstreamError when the service breaks off."""
        try:
            return await self._response.read()
        except HttpError as error:
            raise self._upstream.broke(error) from None

    def close(self) -> None:
        """Give the connection back; if the answer is not at its end, close it, so that the service stops."""
        if self._open:
            self._open = False
            self._upstream.active -= 1
            self._response.close()


class Upstream:
    """A client of one entry of `serve.upstreams`, for one event loop.

    Raises ConfigError without its key or its certificates.
    """

    def __init__(
        self, config: UpstreamConfig, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.config = config
        self.active = 0
        """Requests on their way."""
        self.breaker = Breaker(config.breaker_failures, config.breaker_seconds)
        self._key = config.key()
        check_certificates(config)
        self._sleep = sleep
        self._transport: Transport | None = None
        self._closed = False

    @property
    def name(self) -> str:
        return self.config.name

    async def post(self, path: str, body: bytes) -> Answer:
        """Send JSON to `path` below the base URL. Raises UpstreamError when there is no answer in the end.

        The request is sent again only while nothing of an answer has been given out.
        """
        for attempt in range(self.config.max_retries + 1):
            try:
                return await self._attempt(path, body)
            except UpstreamError as error:
                log.warning("upstream %s, attempt %d: %s", self.name, attempt + 1, error.message)
                wait = wait_before_retry(attempt, self.config.retry_delay_seconds, error.retry_after)
                last = attempt == self.config.max_retries or self.breaker.state == "open"
                if not error.retryable or last or wait is None:
                    raise
                await self._sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, path: str, body: bytes) -> Answer:
        if self._closed:
            raise self._shutting_down()
        if self.active >= self.config.max_concurrent:
            raise UpstreamError(
                f"{self._quoted} has as many requests as it may get at once.", status=429, retry_after=1
            )
        if not self.breaker.admits():
            raise UpstreamError(
                f"{self._quoted} failed several times in a row and is left alone for a while.",
                status=503,
                retry_after=self.breaker.seconds_left,
            )
        response: Response | None = None
        self.active += 1
        try:
            response = await self._service().post(path, body)
            answer = await self._answer(response)
        except BaseException as error:
            self.active -= 1
            if response is not None:
                response.close()
            if isinstance(error, UpstreamError | HttpError):
                raise self.broke(error) from None
            self.breaker.abandoned()  # whoever asked has gone away
            raise
        self.breaker.succeeded()
        return answer

    async def _answer(self, response: Response) -> Answer:
        """The answer with its beginning read, so that a failure up to there can still be made good."""
        status = response.status
        if is_transient(status):
            raise UpstreamError(
                f"{self._quoted} is over its limit."
                if status == 429
                else f"{self._quoted} answered {status}.",
                status=429 if status == 429 else 502,
                retry_after=retry_after_seconds(response.headers.get("retry-after")),
                retryable=True,
                fault=status >= 500,
            )
        if status in (401, 403):
            raise UpstreamError(f"{self._quoted} refused this server's key ({status}).", fault=False)
        if status < 200 or 300 <= status < 400:
            raise UpstreamError(f"{self._quoted} answered {status}: its base_url is not the right address.")
        streams = response.headers.get("content-type", "").startswith("text/event-stream")
        body = await (response.read() if streams else self._whole(response))
        if streams and not body:
            raise UpstreamError(f"{self._quoted} ended its answer before it began.", retryable=True)
        if status < 300 and not streams and not body.lstrip().startswith(b"{"):
            raise self.garbled()
        return Answer(status, body, streams, self, response)

    async def _whole(self, response: Response) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while piece := await response.read():
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamError(f"{self._quoted} answers with more than {MAX_ANSWER_BYTES:,} bytes.")
        return b"".join(pieces)

    def garbled(self) -> UpstreamError:
        return UpstreamError(f"{self._quoted} answers what is no answer of OpenAI's API.")

    def cut_off(self) -> UpstreamError:
        return UpstreamError(f"{self._quoted} broke off in the middle of its answer.")

    def without_key(self, text: bytes) -> bytes:
        """A text from the service that does not show the key, should it repeat it."""
        return text.replace(self._key.encode(), b"***") if self._key else text

    def broke(self, error: UpstreamError | HttpError) -> UpstreamError:
        """What went wrong as an error to tell, noted by the breaker."""
        if self._closed:
            return self._shutting_down()
        failure = error if isinstance(error, UpstreamError) else self._failure(error)
        if failure.fault:
            self.breaker.failed()
        else:
            self.breaker.abandoned()
        return failure

    def _shutting_down(self) -> UpstreamError:
        return UpstreamError("The server is shutting down.", status=503, fault=False)

    def _failure(self, error: HttpError) -> UpstreamError:
        match error:
            case CannotConnect():
                log.warning("upstream %s: %s", self.name, error)
                return UpstreamError(f"{self._quoted} can't be reached.", retryable=True)
            case Silent():
                seconds = self.config.read_seconds
                return UpstreamError(f"{self._quoted} was silent for {seconds:g} s.", status=504)
            case NotHttp():
                return UpstreamError(f"{self._quoted} does not answer in HTTP.")
        return UpstreamError(f"{self._quoted} broke off.", retryable=True)

    def _service(self) -> Transport:
        """The connections, made in the event loop that uses them."""
        if self._transport is None:
            self._transport = open_transport(self.config, _headers(self._key))
        return self._transport

    async def close(self) -> None:
        """Close the connections and take no more requests; those on their way break off."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()
            await asyncio.sleep(0)  # in which they are closed

    @property
    def _quoted(self) -> str:
        return f"The upstream '{self.name}'"


def _headers(key: str) -> dict[str, str]:
    headers = {
        "user-agent": f"platen/{__version__}",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "accept-encoding": "identity",
    }
    return headers | ({"authorization": f"Bearer {key}"} if key else {})
