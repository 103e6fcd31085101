"""Conversations out of a channel: each thread is one, and so are messages outside threads up to a pause.

Messages go through a temporary database, since a thread may go on years later and a channel may be huge.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from platen.data.document import Broken, LeftOut
from platen.data.slack.export import Channel, Export, SlackMessage

_LONGEST = 500  # messages outside threads in one conversation, where a channel never pauses
_KEPT = frozenset(("", "thread_broadcast", "file_share", "me_message"))
_COMINGS = frozenset(("channel_join", "channel_leave", "group_join", "group_leave"))


@dataclass(frozen=True)
class SlackConversation:
    """Messages that belong together, in order; `threaded` if Slack says so."""

    channel: Channel
    messages: tuple[SlackMessage, ...]
    threaded: bool


def conversations(
    export: Export, channel: Channel, place: str, gap_seconds: float
) -> Iterator[SlackConversation | Broken | LeftOut]:
    """The conversations of a channel by the time they began, and what of it was broken or left out."""
    with closing(sqlite3.connect("")) as database:  # on disk once it outgrows memory, gone when closed
        database.execute(
            "CREATE TABLE message (thread TEXT, ts TEXT, user TEXT, text TEXT, name TEXT,"
            " PRIMARY KEY (thread, ts)) WITHOUT ROWID"
        )
        for message in export.messages(channel):
            if isinstance(message, Broken):
                yield message
                continue
            reason = _reason_to_leave_out(message, export)
            if reason:
                yield LeftOut(f"{place}/{message.ts}", reason)
                continue
            row = (message.thread, message.ts, message.user, message.text, message.name)
            database.execute("INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?)", row)
        yield from _grouped(database, channel, gap_seconds)


def _reason_to_leave_out(message: SlackMessage, export: Export) -> str:
    user = export.users.get(message.user)
    if message.is_bot or message.subtype == "bot_message" or (user is not None and user.is_bot):
        return "bot"
    if message.subtype in _COMINGS:
        return "join or leave"
    if message.subtype not in _KEPT:
        return f"slack {message.subtype}"
    if not message.text.strip():
        return "message without text"
    return "" if message.user else "message of nobody"


def _grouped(
    database: sqlite3.Connection, channel: Channel, gap_seconds: float
) -> Iterator[SlackConversation]:
    rows = database.execute("SELECT thread, ts, user, text, name FROM message ORDER BY thread, ts")
    loose: list[SlackMessage] = []
    for thread, of_thread in itertools.groupby(rows, key=lambda row: row[0]):
        messages = tuple(
            SlackMessage(ts, thread, user, text, name=name) for _, ts, user, text, name in of_thread
        )
        if len(messages) > 1:
            yield SlackConversation(channel, messages, threaded=True)
            continue
        paused = loose and float(thread) - float(loose[-1].ts) > gap_seconds
        if paused or len(loose) >= _LONGEST:
            yield SlackConversation(channel, tuple(loose), threaded=False)
            loose = []
        loose.append(messages[0])
    if loose:
        yield SlackConversation(channel, tuple(loose), threaded=False)
