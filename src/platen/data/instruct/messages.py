"""What an instruction set is made of: conversations of messages, and how they are written as JSON lines.

A line is what chat trainers read: `{"messages": [{"role": …, "content": …}, …]}` with its id, source and
shape beside it. A task and the material it is about stay apart in memory, so that templates may mark them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platen.core.errors import DataError
from platen.prompts.messages import Message


@dataclass(frozen=True)
class Example:
    """A conversation that ends with an answer. `shape` is what it was made from; `acts` has one a message."""

    id: str
    messages: tuple[Message, ...]
    source: str
    shape: str
    acts: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """Everything before the last answer."""
        return "\n".join(f"{message.role}: {message.content}" for message in self.messages[:-1])

    @property
    def answer(self) -> str:
        return self.messages[-1].content

    def line(self) -> str:
        """As a line of an instruction set, without its line feed."""
        record: dict[str, Any] = {"id": self.id, "messages": [m.as_chat() for m in self.messages]}
        if self.acts:
            record["acts"] = list(self.acts)
        return json.dumps(record | {"source": self.source, "shape": self.shape}, ensure_ascii=False)


def prompt_id(messages: Sequence[Message]) -> str:
    """Names a conversation by all before its last answer: a corrected answer keeps its id."""
    prompt = [[message.role, " ".join(message.content.split())] for message in messages[:-1]]
    return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:16]


def read_message(record: object) -> Message:
    """A message as `as_chat` gives it. Raises ValueError."""
    if not isinstance(record, dict):
        raise ValueError("a message is no object")
    role = record.get("role")
    if role not in ("system", "user", "assistant"):
        raise ValueError(f"a message has the role {role!r}")
    text, input_ = record.get("instruction", record.get("content")), record.get("input", "")
    if not isinstance(text, str) or not isinstance(input_, str):
        raise ValueError("a message has no text")
    return Message(role, text, input_)


def read_examples(file: Path) -> Iterator[Example]:
    """The examples of one split of an instruction set. Raises DataError with the line."""
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    record = json.loads(line)
                    yield Example(
                        id=str(record["id"]),
                        messages=tuple(read_message(message) for message in record["messages"]),
                        source=str(record["source"]),
                        shape=str(record["shape"]),
                        acts=tuple(record.get("acts", ())),
                    )
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(
                        f"{file}, line {number}: no example of an instruction set: {error}",
                        hint="Give a file that the stage `instruct` wrote.",
                    ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} can't be read: {error}", hint="Give a file of an instruction set.") from None


def write_examples(file: Path, examples: Iterable[Example]) -> None:
    with file.open("w", encoding="utf-8") as out:
        out.writelines(example.line() + "\n" for example in examples)
