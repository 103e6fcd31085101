"""What is written in one turn of the loop goes out in one piece, in order, and before the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from platen.web.write_coalescing import MOST_BYTES, Gathering


class Wire:
    """A transport that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def close(self) -> None:
        self.told.append("close")

    def abort(self) -> None:
        self.told.append("abort")

    def is_closing(self) -> bool:
        return self.closing


def over(test: Callable[[Gathering, Wire], Awaitable[None]]) -> None:
    async def whole() -> None:
        wire = Wire()
        await test(Gathering(cast(asyncio.Transport, wire), asyncio.get_running_loop()), wire)

    asyncio.run(whole())


def test_one_turn_is_one_piece() -> None:
    @over
    async def _(gathering: Gathering, wire: Wire) -> None:
        gathering.write(b"head ")
        gathering.write(b"body")
        assert wire.told == []
        await asyncio.sleep(0)
        assert wire.told == [b"head body"]
        gathering.write(b" more")
        await asyncio.sleep(0)
        assert wire.told == [b"head body", b" more"]


def test_much_does_not_wait() -> None:
    @over
    async def _(gathering: Gathering, wire: Wire) -> None:
        much = b"x" * MOST_BYTES
        for piece in (b"a", much, b"b"):
            gathering.write(piece)
        assert wire.told == [b"a" + much]
        await asyncio.sleep(0)
        assert wire.told == [b"a" + much, b"b"]


def test_closing_sends_what_is_left_and_aborting_does_not() -> None:
    @over
    async def _(gathering: Gathering, wire: Wire) -> None:
        gathering.write(b"last")
        gathering.close()
        assert wire.told == [b"last", "close"]
        gathering.write(b"never")
        gathering.abort()
        await asyncio.sleep(0)
        assert wire.told == [b"last", "close", "abort"]


def test_nothing_is_written_to_a_client_who_has_gone() -> None:
    @over
    async def _(gathering: Gathering, wire: Wire) -> None:
        gathering.write(b"late")
        wire.closing = True
        assert gathering.is_closing()
        await asyncio.sleep(0)
        assert wire.told == []
