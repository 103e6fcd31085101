"""A conversation's messages, as every part of Platen that deals with turns has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class ToolCall:
    """One call; `arguments` is the JSON text that the model wrote."""

    name: str
    arguments: str
    id: str = ""

    def as_chat(self) -> dict[str, Any]:
        """As chat templates take it: OpenAI's form, but with the arguments as an object."""
        function = {"name": self.name, "arguments": json.loads(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True)
class Message:
    """One turn. `input` is material that the text speaks of, such as a passage to translate.

    `calls` and `reasoning` are an assistant's; a tool's message answers the call with the id `answers`, and
    may have the function's `name`.
    """

    role: Role
    text: str
    input: str = ""
    calls: tuple[ToolCall, ...] = ()
    answers: str | None = None
    name: str | None = None
    reasoning: str | None = None

    @property
    def content(self) -> str:
        """All of it, for templates that know one text a turn."""
        return f"{self.text}\n\n{self.input}" if self.input else self.text

    def as_chat(self) -> dict[str, Any]:
        """As chat templates take it; with an input also its two parts."""
        chat: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.input:
            chat |= {"instruction": self.text, "input": self.input}
        if self.calls:
            chat["tool_calls"] = [call.as_chat() for call in self.calls]
        optional = {"tool_call_id": self.answers, "name": self.name, "reasoning_content": self.reasoning}
        return chat | {key: value for key, value in optional.items() if value is not None}


def as_chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """As chat templates take them; a tool's answer gets the name of the function that was called."""
    names: dict[str | None, str] = {}
    chat: list[dict[str, Any]] = []
    for message in messages:
        names |= {call.id: call.name for call in message.calls}
        chat.append(message.as_chat())
        if message.role != "tool":
            chat[-1].pop("name", None)
        elif message.answers in names:
            chat[-1].setdefault("name", names[message.answers])
    return chat
