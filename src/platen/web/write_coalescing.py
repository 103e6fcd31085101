"""A transport that sends what is written in one turn of the event loop in one piece.

uvicorn writes an answer's head, its body and its end apart, and uvloop makes a system call of each.
"""

from __future__ import annotations

import asyncio
from typing import Any

MOST_BYTES = 64 * 2**10
"""So much is not held back for company."""


class Gathering:
    """Wraps a transport of `loop`; all but writing and closing is the transport's own."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MOST_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._pieces.clear()
        self._transport.abort()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        data = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        if data and not self._transport.is_closing():  # the client may have gone meanwhile
            self._transport.write(data)
