"""What lies in a Slack export, a ZIP or the same unpacked: people, channels of four kinds, messages by day.

Public channels are in channels.json, private ones in groups.json, direct messages in dms.json and those of
groups in mpims.json; each has a folder by its name, direct messages one by their id.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from platen.core.errors import DataError
from platen.data.document import Broken
from platen.data.readers.archive import Archive
from platen.data.readers.config import ChannelKind
from platen.data.readers.jsonarray import values
from platen.data.sourcefile import SourceFile, TooMuch

LISTS: dict[ChannelKind, str] = {
    "public": "channels.json",
    "private": "groups.json",
    "dm": "dms.json",
    "group-dm": "mpims.json",
}
_TIMESTAMP = re.compile(r"\d{10}\.\d{6}")


@dataclass(frozen=True)
class User:
    """Someone in the workspace; `name` is how others see them, `handle` their account's name."""

    id: str
    name: str
    handle: str = ""
    real_name: str = ""
    is_bot: bool = False


@dataclass(frozen=True)
class Channel:
    """A channel of any kind; `folder` is where its days lie, `name` how it is called."""

    id: str
    name: str
    kind: ChannelKind
    folder: str


@dataclass(frozen=True)
class SlackMessage:
    """One message as stored. `thread` is the `ts` of the message it answers, its own outside threads."""

    ts: str
    thread: str
    user: str
    text: str
    subtype: str = ""
    is_bot: bool = False
    name: str = ""


class Files(Protocol):
    """The files of an export by their path in it."""

    def names(self) -> list[str]: ...

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]: ...


class Folder:
    """An unpacked export."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        files = (*self._path.glob("*.json"), *self._path.glob("*/*.json"))
        return [file.relative_to(self._path).as_posix() for file in files if file.is_file()]

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return (self._path / name).open("rb")


class Export:
    """A Slack export; broken days come out among the messages."""

    def __init__(self, files: Files, file: SourceFile) -> None:
        """Raises DataError when it is no Slack export or its lists can't be read."""
        self._files, self._file = files, file
        self._names = sorted(files.names())
        present = {kind: name for kind, name in LISTS.items() if name in self._names}
        if "users.json" not in self._names or not present:
            raise DataError(
                f"{file.name} is no Slack export: no users.json, or none of {', '.join(LISTS.values())}",
                hint="Give the ZIP that Slack's export page made, or the folder of platen data slack.",
            )
        self.users = {user.id: user for user in map(_user, self._list("users.json"))}
        self.channels = [
            _channel(entry, kind, self.users) for kind, name in present.items() for entry in self._list(name)
        ]

    def messages(self, channel: Channel) -> Iterator[SlackMessage | Broken]:
        """The messages of a channel, day after day."""
        beginning = f"{channel.folder}/"
        for name in self._names:
            if name.startswith(beginning) and name.endswith(".json"):
                yield from self._day(name)

    def _day(self, name: str) -> Iterator[SlackMessage | Broken]:
        place, number = f"{self._file.name}:{name}", 0
        try:
            with self._files.open(name) as stream:
                for number, entry in enumerate(
                    values(stream, "utf-8", self._file.limits.line_bytes), start=1
                ):
                    message = _message(entry)
                    yield message or Broken(
                        f"{place}, message {number}",
                        "no-message",
                        f"{place}, message {number}: no message with a time stamp and a text",
                        "Export it again.",
                    )
        except (ValueError, TooMuch, OSError, EOFError, zipfile.BadZipFile) as error:
            reason = "expansion" if isinstance(error, TooMuch) else "malformed"
            yield Broken(
                f"{place}, message {number + 1}",
                reason,
                f"{place}, message {number + 1}: {error}; this day is not read from there on",
                "Export it again.",
            )

    def _list(self, name: str) -> list[dict[str, Any]]:
        try:
            with self._files.open(name) as stream:
                entries = list(values(stream, "utf-8", self._file.limits.line_bytes))
        except (ValueError, TooMuch, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{self._file.name}:{name} can't be read: {error}", hint="Export it again."
            ) from None
        return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def open_files(stream: IO[bytes], file: SourceFile) -> Files:
    """The files in an export's ZIP. Raises DataError when it is none."""
    try:
        return Archive(stream, entry_bytes=file.limits.document_bytes, expansion=file.limits.expansion)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"{file.name} is no ZIP archive: {error}", hint="Get the export again.") from None


def _user(entry: dict[str, Any]) -> User:
    profile = entry.get("profile") if isinstance(entry.get("profile"), dict) else {}
    real = _text(entry, "real_name") or _text(profile, "real_name")
    handle = _text(entry, "name")
    name = _text(profile, "display_name") or real or handle or entry["id"]
    return User(entry["id"], name, handle, real, bool(entry.get("is_bot")) or entry["id"] == "USLACKBOT")


def _channel(entry: dict[str, Any], kind: ChannelKind, users: dict[str, User]) -> Channel:
    id, name = entry["id"], _text(entry, "name")
    if kind == "dm":
        members = entry.get("members") if isinstance(entry.get("members"), list) else []
        people = [users[member].name if member in users else str(member) for member in members or []]
        return Channel(id, ", ".join(people) or id, kind, folder=id)
    return Channel(id, name or id, kind, folder=name or id)


def _message(entry: object) -> SlackMessage | None:
    if not isinstance(entry, dict):
        return None
    ts = _text(entry, "ts")
    if not _TIMESTAMP.fullmatch(ts) or not isinstance(entry.get("text", ""), str):
        return None
    thread = _text(entry, "thread_ts")
    profile = entry.get("user_profile")
    return SlackMessage(
        ts=ts,
        thread=thread if _TIMESTAMP.fullmatch(thread) else ts,
        user=_text(entry, "user"),
        text=_text(entry, "text"),
        subtype=_text(entry, "subtype"),
        is_bot="bot_id" in entry,
        name=_text(profile, "real_name") if isinstance(profile, dict) else "",
    )


def _text(entry: Any, key: str) -> str:
    """A text under a key, with lone halves of surrogate pairs, which are no characters, replaced."""
    value = entry.get(key)
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
