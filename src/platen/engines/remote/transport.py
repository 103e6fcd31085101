"""What the client of an upstream asks of HTTP: post a body, read the response as it comes, close it.

Two modules offer it: `http1.py`, fast and plain, and `library.py`, slower, for everything that is not plain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class HttpError(Exception):
    """There is no answer, or no more of it."""


class CannotConnect(HttpError):
    """No connection: refused, unknown name, bad certificate, too slow."""


class BrokenOff(HttpError):
    """The connection was lost before the answer's end."""


class Silent(HttpError):
    """Nothing was heard for as long as may be."""


class NotHttp(HttpError):
    """What came is no HTTP answer."""


class Response(Protocol):
    """The response to one request. `headers` have their names in lower case."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def read(self) -> bytes:
        """The next chunk of the body, empty at its end. Raises HttpError when it breaks off."""
        ...

    def close(self) -> None:
        """Free the connection; before the end of the body, cut it off."""
        ...


class Transport(Protocol):
    """Connections to one base URL. Belongs to one event loop."""

    async def post(self, path: str, body: bytes) -> Response:
        """Send `body` to `path` below the base URL; returns once the head of the response is here.

        Raises HttpError. Cancelling ends the request.
        """
        ...

    def close(self) -> None:
        """Close all connections; responses under way break off."""
        ...
