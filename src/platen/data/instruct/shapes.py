"""Reads the shapes that instruction data comes in as conversations: instruct, Alpaca, ShareGPT, OpenAI,
evol-instruct and self-instruct. What fits none is a ShapeError that says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from platen.prompts.messages import Message, Role

Shape = Literal["instruct", "alpaca", "sharegpt", "openai", "evol-instruct", "self-instruct"]
Conversation = tuple[Message, ...]
Record = Mapping[str, Any]

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
}
_LANDMARK = re.compile(r"^[ \t]*#{2,3} ?(Instruction|Input|Response):?[ \t]*", re.MULTILINE)


class ShapeError(ValueError):
    """A record is not of its shape; the message is the reason."""


def read_shape(record: object, shape: Shape | Literal["auto"] = "auto") -> tuple[Shape, list[Conversation]]:
    """The shape of a record and its conversations (self-instruct has one an instance).

    Raises ShapeError: for a record of another shape, without an answer, or with turns out of order.
    """
    if not isinstance(record, dict):
        raise ShapeError("not an object")
    found = shape_of(record) if shape == "auto" else shape
    conversations = [_checked(conversation) for conversation in _READERS[found](record)]
    if not conversations:
        raise ShapeError("no conversation in it")
    return found, conversations


def shape_of(record: Record) -> Shape:
    """Told by a record's keys. Raises ShapeError."""
    if "messages" in record:
        return "openai"
    if "conversations" in record:
        return "evol-instruct" if "idn" in record else "sharegpt"
    if "instances" in record or {"prompt", "completion"} <= record.keys():
        return "self-instruct"
    if "instruction" in record and "output" in record:
        return "alpaca" if "input" in record else "evol-instruct"
    if "instruction" in record and "response" in record:
        return "instruct"
    if isinstance(record.get("text"), str) and _LANDMARK.search(record["text"]):
        return "instruct"
    raise ShapeError(f"no known shape: its keys are {', '.join(sorted(map(str, record))) or 'none'}")


def _instruct(record: Record) -> list[Conversation]:
    """The three fields by name, or one text with the landmarks ###Instruction, ###Input, ###Response."""
    if "instruction" not in record:
        return [_landmarks(_text(record, "text"))]
    answer = _text(record, "response" if "response" in record else "output")
    material = _optional(record, "input") or _optional(record, "context")
    return [_pair(_text(record, "instruction"), material, answer)]


def _landmarks(text: str) -> Conversation:
    before, *parts = _LANDMARK.split(text)
    messages = [Message("system", before.strip())] if before.strip() else []
    for landmark, written in zip(parts[::2], parts[1::2], strict=True):
        body = written.strip()
        if landmark == "Instruction":
            messages.append(Message("user", body))
        elif landmark == "Response":
            messages.append(Message("assistant", body))
        elif messages and messages[-1].role == "user":
            messages[-1] = Message("user", messages[-1].text, body)
        else:
            raise ShapeError("###Input without an ###Instruction before it")
    return tuple(messages)


def _alpaca(record: Record) -> list[Conversation]:
    return [_pair(_text(record, "instruction"), _optional(record, "input"), _text(record, "output"))]


def _evol(record: Record) -> list[Conversation]:
    """WizardLM's: an instruction and its output, or since its second version a conversation."""
    return _sharegpt(record) if "conversations" in record else _alpaca(record)


def _self_instruct(record: Record) -> list[Conversation]:
    """A task with instances, or a prompt with its completion."""
    if "instances" not in record:
        return [_pair(_text(record, "prompt").strip(), "", _text(record, "completion").strip())]
    instances = record["instances"]
    if not isinstance(instances, list) or not all(isinstance(one, dict) for one in instances):
        raise ShapeError("'instances' is no list of objects")
    task = _text(record, "instruction")
    return [_pair(task, _optional(one, "input"), _text(one, "output")) for one in instances]


def _sharegpt(record: Record) -> list[Conversation]:
    return [_turns(record, "conversations", "from", "value")]


def _openai(record: Record) -> list[Conversation]:
    return [_turns(record, "messages", "role", "content")]


def _turns(record: Record, key: str, who: str, what: str) -> Conversation:
    turns = record.get(key)
    if not isinstance(turns, list) or not turns:
        raise ShapeError(f"'{key}' is no list of turns")
    messages = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise ShapeError(f"'{key}' has a turn that is no object")
        role = _ROLES.get(str(turn.get(who)).lower())
        if role is None:
            raise ShapeError(f"a turn is by {turn.get(who)!r}, which is no known role")
        if turn.get("tool_calls") or turn.get("function_call"):
            raise ShapeError("a turn calls a tool")
        material = turn.get("input", "")
        if "instruction" in turn and isinstance(material, str):
            messages.append(Message(role, _text(turn, "instruction"), material))
        else:
            messages.append(Message(role, _parts(turn.get(what))))
    return tuple(messages)


def _parts(content: object) -> str:
    """A turn's text: one text, or OpenAI's list of parts when all are texts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if any(part.get("type") != "text" for part in content):
            raise ShapeError("a turn has a part that is no text")
        return "".join(str(part.get("text", "")) for part in content)
    raise ShapeError("a turn has no text")


def _pair(instruction: str, material: str, answer: str) -> Conversation:
    return Message("user", instruction, material), Message("assistant", answer)


def _text(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise ShapeError(f"no text under '{key}'")
    return value


def _optional(record: Record, key: str) -> str:
    value = record.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ShapeError(f"'{key}' is no text")
    # Alpaca and self-instruct write this where there is no input.
    return "" if value.strip().lower() in ("", "<noinput>", "noinput") else value


def _checked(messages: Conversation) -> Conversation:
    """Turns in order, the last an answer: what follows it can't be learned from and is left out."""
    while messages and messages[-1].role != "assistant":
        messages = messages[:-1]
    if not messages:
        raise ShapeError("no answer in it")
    expected = "user"
    for number, message in enumerate(messages):
        if not message.content.strip():
            raise ShapeError(f"turn {number + 1} is empty")
        if message.role == "system":
            if number:
                raise ShapeError("a system message after the first turn")
            continue
        if message.role != expected:
            raise ShapeError(f"turn {number + 1} is by {message.role}, where {expected} should speak")
        expected = "assistant" if expected == "user" else "user"
    return messages


_READERS: Mapping[Shape, Callable[[Record], list[Conversation]]] = {
    "instruct": _instruct,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "openai": _openai,
    "evol-instruct": _evol,
    "self-instruct": _self_instruct,
}
