"""What a finished pull left in its folder, so that the next one asks only for what has come since.

A file in the folder names the channels that were pulled whole; their messages are the export's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from platen.core.files import write_atomic

MARK = ".pulled.json"


@dataclass(frozen=True)
class Kept:
    """A message of a finished pull. `thread` is the `ts` of what it answers, its own outside threads."""

    ts: str
    thread: str
    json: str


def write_mark(folder: Path, since: float, channels: Mapping[str, str]) -> None:
    """Note which channels are whole from `since` on: their ids, and the folders they lie in."""
    mark = json.dumps({"since": since, "channels": dict(channels)}, indent=1)
    write_atomic(folder / MARK, mark.encode())


def read_mark(folder: Path, since: float) -> dict[str, str]:
    """The channels noted; none where no pull from the same `since` on was finished."""
    try:
        mark = json.loads((folder / MARK).read_bytes())
        return dict(mark["channels"]) if mark["since"] == since else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def kept_messages(folder: Path) -> list[Kept] | None:
    """A channel's messages from the days in its folder; None when one of them can't be read."""
    try:
        return [_kept(message) for day in sorted(folder.glob("*.json")) for message in _day(day)]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _day(file: Path) -> Iterator[dict[str, Any]]:
    yield from json.loads(file.read_bytes())


def _kept(message: dict[str, Any]) -> Kept:
    return Kept(message["ts"], thread_of(message), json.dumps(message))


def thread_of(message: Mapping[str, Any]) -> str:
    """The `ts` of the message that this one answers, else its own."""
    thread = message.get("thread_ts")
    return thread if isinstance(thread, str) and thread else str(message["ts"])


def days_before_newest(messages: list[Kept], days: float) -> str:
    """The time stamp that lies so many days before the newest message outside threads; empty without one."""
    newest = max((message.ts for message in messages if message.thread == message.ts), default="")
    try:
        return f"{max(Decimal(newest) - Decimal(days) * 86_400, Decimal(0)):017.6f}" if newest else ""
    except ArithmeticError:
        return ""


def same_replies(now: Mapping[str, Any], before: str) -> bool:
    """Whether a thread's first message tells of the replies that it told of before, in JSON."""
    earlier = json.loads(before)
    return all(now.get(key) == earlier.get(key) for key in ("reply_count", "latest_reply"))
