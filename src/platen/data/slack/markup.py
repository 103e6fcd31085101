"""Slack's message markup as plain text: mentions by name, channels, links, dates, and the three escapes."""

from __future__ import annotations

import re
from collections.abc import Mapping

_ENTITY = re.compile(r"<([^<>]*)>")


def plain_text(text: str, users: Mapping[str, str], channels: Mapping[str, str]) -> str:
    """`text` with `<@U1>` as @Name, `<#C1|general>` as #general, `<https://x|y>` as `y (https://x)`.

    `users` and `channels` give names by id; an unknown id stands for itself.
    """

    def decode(match: re.Match[str]) -> str:
        target, _, label = match.group(1).partition("|")
        if target.startswith("@"):
            return f"@{users.get(target[1:], label or target[1:])}"
        if target.startswith("#"):
            return f"#{label or channels.get(target[1:], target[1:])}"
        if target.startswith("!"):
            return _command(target[1:], label)
        address = target.removeprefix("mailto:").removeprefix("tel:")
        return f"{label} ({address})" if label and label not in (address, target) else address

    return _ENTITY.sub(decode, text).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").strip()


def _command(command: str, label: str) -> str:
    if command in ("here", "channel", "everyone"):
        return f"@{command}"
    name = command.partition("^")[0]
    return label or f"@{name}"
