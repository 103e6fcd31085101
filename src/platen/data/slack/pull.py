"""Pulls a workspace through the Web API into a folder of an export's shape.

What has come so far lies in one SQLite file in it, a page and the cursor after it in one transaction. So a
pull that is killed at any moment goes on with the next page. At the end the file is removed.

A further pull of the same folder reads only what is newer than it, and the last `look_back` days once more,
where messages may have been changed or removed and threads may have grown. Slack tells of a thread's new
replies only where its first message is listed, by `latest_reply`, so replies to older threads are found only
when they were sent to the channel too.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platen.core.errors import DataError
from platen.core.files import write_atomic
from platen.core.progress import Progress, SilentProgress
from platen.data.document import Broken
from platen.data.readers.config import ChannelKind
from platen.data.slack.client import SlackClient, SlackError, next_cursor
from platen.data.slack.export import LISTS
from platen.data.slack.previous_pull import (
    days_before_newest,
    kept_messages,
    read_mark,
    same_replies,
    thread_of,
    write_mark,
)
from platen.data.sourcefile import SourceFile

STATE = ".pull.sqlite"
_TYPES: dict[ChannelKind, str] = {
    "public": "public_channel",
    "private": "private_channel",
    "dm": "im",
    "group-dm": "mpim",
}
_PAGE = 200
_SAFE = re.compile(r"\w[\w.-]{0,99}")
_COPY = "INSERT OR IGNORE INTO message SELECT channel, ts, json FROM earlier WHERE channel = ?"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS user (id TEXT PRIMARY KEY, json TEXT);
CREATE TABLE IF NOT EXISTS channel (id TEXT PRIMARY KEY, kind TEXT, json TEXT, cursor TEXT DEFAULT '',
    oldest TEXT DEFAULT '', read INTEGER DEFAULT 0, problem TEXT DEFAULT '');
CREATE TABLE IF NOT EXISTS message (channel TEXT, ts TEXT, json TEXT,
    PRIMARY KEY (channel, ts)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS earlier (channel TEXT, ts TEXT, thread TEXT, json TEXT,
    PRIMARY KEY (channel, ts)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS thread (channel TEXT, ts TEXT, cursor TEXT DEFAULT '', read INTEGER DEFAULT 0,
    PRIMARY KEY (channel, ts));
"""


@dataclass(frozen=True)
class Wanted:
    """What to pull. `channels` are names or ids, all when empty; `since` is in seconds since 1970.

    `look_back` is how many days before the newest message a further pull reads again.
    """

    kinds: tuple[ChannelKind, ...] = ("public", "private", "dm", "group-dm")
    channels: tuple[str, ...] = ()
    since: float = 0.0
    look_back: float = 30.0


@dataclass
class Pulled:
    """What there is after a pull; `problems` are channels and threads that Slack would not give.

    `new` counts the messages that no earlier pull of the folder had brought.
    """

    channels: int = 0
    messages: int = 0
    new: int = 0
    users: int = 0
    problems: list[Broken] = field(default_factory=list)


def pull(client: SlackClient, folder: Path, wanted: Wanted, progress: Progress | None = None) -> Pulled:
    """Pull all that is wanted into `folder`, or go on with a pull that was broken off or finished there.

    Raises DataError when Slack is out of reach (what has come is kept), and for a folder with another pull
    half done.
    """
    progress = progress or SilentProgress()
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / STATE, isolation_level=None)) as database:
        database.executescript(_SCHEMA)
        state = _State(database, client, wanted)
        state.check_same(folder)
        with progress.task("pulling Slack", unit="messages") as task:
            for count in state.fetch(folder):
                task.update(count)
        pulled = state.write(folder)
    (folder / STATE).unlink()
    return pulled


def pull_source(file: SourceFile) -> Iterator[Broken]:
    """Pull what a source of format slack-api wants into its folder; gives what Slack would not give."""
    source = file.source
    client = SlackClient.from_environment()
    wanted = Wanted(source.kinds, tuple(name.removeprefix("#") for name in source.channels))
    yield from pull(client, Path(file.location), wanted).problems


class _State:
    def __init__(self, database: sqlite3.Connection, client: SlackClient, wanted: Wanted) -> None:
        self._db, self._client, self._wanted = database, client, wanted

    def check_same(self, folder: Path) -> None:
        wanted = self._wanted
        asked = json.dumps([wanted.kinds, wanted.channels, wanted.since, wanted.look_back])
        self._db.execute("INSERT OR IGNORE INTO setting VALUES ('wanted', ?)", (asked,))
        if self._setting("wanted") != asked:
            raise DataError(
                f"{folder} holds a pull of other channels that was broken off",
                hint=f"Go on with it by the options it had, or remove {folder / STATE}.",
            )

    def fetch(self, folder: Path) -> Iterator[int]:
        """Fetch page after page; gives how many messages there are so far."""
        if self._setting("listed") != "yes":
            self._list_users()
            self._list_channels()
            self._take_over(folder)
            self._db.execute("INSERT OR REPLACE INTO setting VALUES ('listed', 'yes')")
        yield self._count("message")
        unread = "SELECT id, cursor, oldest FROM channel WHERE read = 0 ORDER BY rowid"
        for channel, cursor, oldest in self._db.execute(unread).fetchall():
            yield from self._history(channel, cursor, oldest)
        unread = "SELECT channel, ts, cursor FROM thread WHERE read = 0 ORDER BY channel, ts"
        for channel, ts, cursor in self._db.execute(unread).fetchall():
            yield from self._replies(channel, ts, cursor)

    def _list_users(self) -> None:
        for page in self._client.pages("users.list", limit=_PAGE):
            rows = [(user["id"], json.dumps(user)) for user in _objects(page, "members", "id")]
            self._db.executemany("INSERT OR REPLACE INTO user VALUES (?, ?)", rows)

    def _list_channels(self) -> None:
        found: set[str] = set()
        for kind in self._wanted.kinds:
            for page in self._client.pages("conversations.list", types=_TYPES[kind], limit=_PAGE):
                for channel in _objects(page, "channels", "id"):
                    names = {channel["id"], str(channel.get("name"))}
                    if self._wanted.channels and not names & set(self._wanted.channels):
                        continue
                    found |= names
                    if kind == "dm":  # an export lists both people; the API only the other one
                        channel["members"] = [channel.get("user")]
                    row = (channel["id"], kind, json.dumps(channel))
                    self._db.execute("INSERT OR IGNORE INTO channel (id, kind, json) VALUES (?, ?, ?)", row)
        missing = [name for name in self._wanted.channels if name not in found]
        if missing:
            raise DataError(
                f"Slack shows this token no channel {missing[0]}",
                hint="Check its name and kind, and that the token's user is in it.",
            )

    def _take_over(self, folder: Path) -> None:
        """Keep what an earlier pull brought of each channel, up to where this one begins."""
        before = read_mark(folder, self._wanted.since)
        for (channel,) in self._db.execute("SELECT id FROM channel").fetchall():
            messages = kept_messages(folder / before[channel]) if channel in before else None
            if not messages:
                continue
            oldest = days_before_newest(messages, self._wanted.look_back)
            with self._db:
                self._db.execute("BEGIN")
                self._db.executemany(
                    "INSERT OR REPLACE INTO earlier VALUES (?, ?, ?, ?)",
                    [(channel, message.ts, message.thread, message.json) for message in messages],
                )
                self._db.execute(f"{_COPY} AND thread <= ?", (channel, oldest))
                self._db.execute("UPDATE channel SET oldest = ? WHERE id = ?", (oldest, channel))

    def _history(self, channel: str, cursor: str, oldest: str) -> Iterator[int]:
        parameters: dict[str, str | int] = {"channel": channel, "limit": _PAGE}
        if oldest or self._wanted.since:
            parameters["oldest"] = max(oldest, f"{self._wanted.since:017.6f}")
        try:
            for page in self._client.pages("conversations.history", cursor, **parameters):
                messages = _objects(page, "messages", "ts")
                with self._db:
                    self._db.execute("BEGIN")
                    self._keep(channel, messages)
                    for message in messages:
                        self._note_thread(channel, message, oldest)
                    after = next_cursor(page)
                    self._db.execute(
                        "UPDATE channel SET cursor = ?, read = ? WHERE id = ?", (after, not after, channel)
                    )
                yield self._count("message")
        except SlackError as error:  # of this channel only, such as not_in_channel
            self._db.execute("UPDATE channel SET read = 1, problem = ? WHERE id = ?", (str(error), channel))

    def _note_thread(self, channel: str, message: dict[str, Any], oldest: str) -> None:
        """Have a thread's replies fetched, unless an earlier pull brought the same ones."""
        thread, ts = thread_of(message), message["ts"]
        before = self._db.execute(
            "SELECT json FROM earlier WHERE channel = ? AND ts = ?", (channel, ts)
        ).fetchone()
        if message.get("reply_count"):
            if before is not None and same_replies(message, before[0]):
                self._db.execute(f"{_COPY} AND thread = ?", (channel, ts))
                return
        elif (
            before is not None or not ts > oldest >= thread
        ):  # a reply, sent to the channel too, to an old thread
            return
        self._db.execute("INSERT OR IGNORE INTO thread (channel, ts) VALUES (?, ?)", (channel, thread))

    def _replies(self, channel: str, ts: str, cursor: str) -> Iterator[int]:
        try:
            pages = self._client.pages("conversations.replies", cursor, channel=channel, ts=ts, limit=_PAGE)
            for page in pages:
                with self._db:
                    self._db.execute("BEGIN")
                    self._keep(channel, _objects(page, "messages", "ts"))
                    after = next_cursor(page)
                    self._db.execute(
                        "UPDATE thread SET cursor = ?, read = ? WHERE channel = ? AND ts = ?",
                        (after, not after, channel, ts),
                    )
                yield self._count("message")
        except SlackError as error:
            self._db.execute("UPDATE thread SET read = 1 WHERE channel = ? AND ts = ?", (channel, ts))
            self._db.execute(
                "UPDATE channel SET problem = ? WHERE id = ?", (f"thread {ts}: {error}", channel)
            )

    def _keep(self, channel: str, messages: Iterable[dict[str, Any]]) -> None:
        rows = [(channel, message["ts"], json.dumps(message)) for message in messages]
        self._db.executemany("INSERT OR REPLACE INTO message VALUES (?, ?, ?)", rows)

    def write(self, folder: Path) -> Pulled:
        """Lay out the folder as an export has it."""
        known = "SELECT count(*) FROM message JOIN earlier USING (channel, ts)"
        messages, whole = self._count("message"), {}
        new = messages - int(self._db.execute(known).fetchone()[0])
        pulled = Pulled(self._count("channel"), messages, new, self._count("user"))
        _write_list(folder / "users.json", (row[0] for row in self._db.execute("SELECT json FROM user")))
        for kind in LISTS:
            listed = self._db.execute("SELECT json FROM channel WHERE kind = ? ORDER BY rowid", (kind,))
            _write_list(folder / LISTS[kind], (row[0] for row in listed))
        channels = "SELECT id, kind, json, problem FROM channel ORDER BY rowid"
        for id, kind, description, problem in self._db.execute(channels).fetchall():
            name = id if kind == "dm" else str(json.loads(description).get("name") or id)
            if problem:
                place = f"slack:{name}"
                hint = "Invite the app to the channel, or leave the channel out."
                pulled.problems.append(Broken(place, "refused", f"{place}: {problem}", hint))
            if not _SAFE.fullmatch(name) or not _SAFE.fullmatch(id):
                raise DataError(
                    f"Slack names a channel {name!r}, which is no name", hint="Check SLACK_API_URL."
                )
            self._write_channel(folder / name, id)
            if not problem:
                whole[id] = name
        write_mark(folder, self._wanted.since, whole)
        return pulled

    def _write_channel(self, folder: Path, channel: str) -> None:
        fresh = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        rows = self._db.execute("SELECT ts, json FROM message WHERE channel = ? ORDER BY ts", (channel,))
        for day, messages in itertools.groupby(rows, key=lambda row: _day(row[0])):
            _write_list(fresh / f"{day}.json", (row[1] for row in messages))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(fresh, folder)

    def _setting(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def _count(self, table: str) -> int:
        return int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _objects(page: dict[str, Any], key: str, identity: str) -> list[dict[str, Any]]:
    entries = page.get(key)
    return [
        entry
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get(identity), str)
    ]


def _day(ts: str) -> str:
    try:
        return datetime.fromtimestamp(float(ts), UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return "undated"


def _write_list(path: Path, entries: Iterable[str]) -> None:
    """A JSON array of texts that are JSON already."""
    text = "[" + ",".join(f"\n{entry}" for entry in entries) + "\n]\n"
    write_atomic(path, text.encode())
