"""Where the answers of OpenAI's APIs have the texts that a model wrote, whole and in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Event = dict[str, Any]
Place = tuple[str, int]
"""A text of a choice: the field, and the number of the call whose arguments it is."""

_SAID = ("content", "reasoning_content", "reasoning", "refusal")
_WRITTEN = (*_SAID, "text", "arguments")
"""Fields that hold what a model wrote, wherever they are in a choice or an item."""


def objects(value: Any) -> list[Event]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def texts_in(value: Any) -> Iterator[tuple[Event, str]]:
    """Each text that a model wrote, as the object that holds it and its field."""
    if isinstance(value, list):
        for one in value:
            yield from texts_in(one)
    elif isinstance(value, dict):
        for key, one in list(value.items()):
            if isinstance(one, str) and key in _WRITTEN:
                yield value, key
            else:
                yield from texts_in(one)


def places(choice: Event) -> Iterator[tuple[Place, Event, str]]:
    """The texts of a choice in a stream: which, the object that holds it and its field."""
    if isinstance(choice.get("text"), str):
        yield ("text", 0), choice, "text"
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return
    for key in _SAID:
        if isinstance(delta.get(key), str):
            yield (key, 0), delta, key
    for call in objects(delta.get("tool_calls")):
        function = call.get("function")
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            yield ("arguments", call.get("index", 0)), function, "arguments"


def choice_with(index: Any, place: Place, text: str) -> Event:
    """A choice of a stream that has just this text."""
    field, number = place
    if field == "text":
        return {"index": index, "text": text, "finish_reason": None}
    said: Event = {field: text}
    if field == "arguments":
        said = {"tool_calls": [{"index": number, "function": {"arguments": text}}]}
    return {"index": index, "delta": said, "finish_reason": None}
