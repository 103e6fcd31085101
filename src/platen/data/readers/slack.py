"""A Slack export or what the API gave: one document a conversation, people by their names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from platen.core.errors import DataError
from platen.data.document import Document, LeftOut, Record
from platen.data.slack.conversations import SlackConversation, conversations
from platen.data.slack.export import Channel, Export, Folder, SlackMessage, User, open_files
from platen.data.slack.markup import plain_text
from platen.data.sourcefile import SourceFile


def read(file: SourceFile) -> Iterator[Record]:
    if file.source.format == "slack-api":
        from platen.data.slack.pull import pull_source

        yield from pull_source(file)
    with ExitStack() as open_things:
        if isinstance(file.location, Path) and file.location.is_dir():
            export = Export(Folder(file.location), file)
        else:
            export = Export(open_files(open_things.enter_context(file.open_stored()), file), file)
        yield from _Reading(file, export).records()


class _Reading:
    def __init__(self, file: SourceFile, export: Export) -> None:
        self._file, self._export = file, export
        self._chosen = chosen_users(export.users, file.source.users)
        self._user_names = {id: user.name for id, user in export.users.items()}
        self._channel_names = {channel.id: channel.name for channel in export.channels}

    def records(self) -> Iterator[Record]:
        for channel in self._wanted():
            place = f"{self._file.name}:{channel.folder}"
            gap = self._file.source.gap_minutes * 60
            for found in conversations(self._export, channel, place, gap):
                if isinstance(found, SlackConversation):
                    yield from self._document(found, place)
                else:
                    yield found

    def _wanted(self) -> list[Channel]:
        source, channels = self._file.source, self._export.channels
        for name in source.channels:
            if not any(name.removeprefix("#") in (channel.id, channel.name) for channel in channels):
                known = ", ".join(channel.name for channel in channels[:8])
                raise DataError(
                    f"{self._file.name} has no channel {name}", hint=f"Correct channels: there are {known}."
                )
        names = {name.removeprefix("#") for name in source.channels}
        return [
            channel
            for channel in channels
            if channel.kind in source.kinds and (not names or names & {channel.id, channel.name})
        ]

    def _document(self, conversation: SlackConversation, place: str) -> Iterator[Document | LeftOut]:
        kept: list[SlackMessage] = []
        for message in conversation.messages:
            if self._chosen is None or message.user in self._chosen:
                kept.append(message)
            else:
                yield LeftOut(f"{place}/{message.ts}", "someone else's message")
        if not kept:
            return
        said = [self._said(message) for message in kept]
        alone = self._chosen is not None and len(self._chosen) == 1
        channel = conversation.channel
        yield Document(
            id=f"{place}/{kept[0].ts}",
            text="\n\n".join(
                each["text"] if alone else f"{each['speaker']}: {each['text']}" for each in said
            ),
            source=self._file.name,
            metadata={
                "channel": channel.name,
                "channel_id": channel.id,
                "kind": channel.kind,
                "threaded": conversation.threaded,
                "started": datetime.fromtimestamp(float(kept[0].ts), UTC).isoformat(),
                "conversation": said,
            },
        )

    def _said(self, message: SlackMessage) -> dict[str, str]:
        name = self._user_names.get(message.user) or message.name or message.user
        text = plain_text(message.text, self._user_names, self._channel_names)
        return {"user": message.user, "speaker": name, "ts": message.ts, "text": text}


def chosen_users(users: dict[str, User], chosen: tuple[str, ...]) -> frozenset[str] | None:
    """Ids of the people meant by id, handle, shown or real name; None when everyone is.

    Raises DataError for a name that nobody has.
    """
    if not chosen:
        return None
    ids: set[str] = set()
    for name in chosen:
        wanted = name.removeprefix("@")
        found = {
            user.id for user in users.values() if wanted in (user.id, user.handle, user.name, user.real_name)
        }
        if not found:
            raise DataError(f"nobody in users.json is called {name}", hint="Correct users, or give an id.")
        ids |= found
    return frozenset(ids)
