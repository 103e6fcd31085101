"""uvicorn's connection, less its patience: a request's head must come in time, and a layer can cut it off.

What it writes goes out together, as far as it is written together.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from platen.web.write_coalescing import Gathering

CUT_OFF = "cut_off"
"""Where a request's state has the function that closes its connection at once, whatever is unsent."""


class Connection(HttpToolsProtocol):
    """Closes when a request's head is not complete `idle_seconds` after the connection or the head began."""

    def __init__(self, *args: Any, idle_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._idle_seconds = idle_seconds
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Gathering(transport, self.loop))  # type: ignore[arg-type]
        self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"][CUT_OFF] = self.transport.abort
        if self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._head_is_there()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._idle_seconds, self.transport.abort)

    def _head_is_there(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
