"""The server-sent events and token counts of OpenAI's APIs, as bytes come in from a service."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

import orjson

from platen.engines.protocol import Usage

MAX_LINE_BYTES = 16 * 2**20
DONE = b"[DONE]"
"""The data of the event that ends a stream of completions."""


class Lines:
    """Makes whole lines of pieces that may be cut anywhere; each line keeps its end."""

    def __init__(self) -> None:
        self._held = b""

    def push(self, piece: bytes) -> list[bytes]:
        """The lines that are now whole. Raises ValueError when one is longer than any event."""
        data = self._held + piece
        end = data.rfind(b"\n") + 1
        self._held = data[end:]
        if len(self._held) > MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES:,} bytes")
        return data[:end].splitlines(keepends=True)

    def finish(self) -> list[bytes]:
        """The last line, if it has no end."""
        last, self._held = self._held, b""
        return [last] if last else []


def data_of(line: bytes) -> bytes | None:
    """What a `data:` line carries; None for any other line."""
    return line[5:].strip() if line.startswith(b"data:") else None


def data_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each server-sent event of a body, `[DONE]` among them.

    Only a newline ends a line: a sequence's text may hold Unicode's other line ends. Raises ValueError for a
    line without end.
    """
    lines = Lines()
    for chunk in chunks:
        yield from (data for line in lines.push(chunk) if (data := data_of(line)) is not None)
    yield from (data for line in lines.finish() if (data := data_of(line)) is not None)


async def async_data_lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """As `data_lines`, of a body that comes asynchronously."""
    lines = Lines()
    async for chunk in chunks:
        for line in lines.push(chunk):
            if (data := data_of(line)) is not None:
                yield data
    for line in lines.finish():
        if (data := data_of(line)) is not None:
            yield data


def event_of(line: bytes) -> dict[str, Any] | None:
    """The JSON object that a `data:` line carries; None for any other line, `[DONE]` among them."""
    data = data_of(line)
    if data is None:
        return None
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return event if isinstance(event, dict) else None


def is_done(line: bytes) -> bool:
    """Whether this line ends a stream of completions."""
    return data_of(line) == DONE


def usage_of(document: dict[str, Any]) -> Usage | None:
    """Token counts of an answer or event, in the names of completions or of responses."""
    found = document.get("usage")
    if not isinstance(found, dict):
        return None
    prompt = found.get("prompt_tokens", found.get("input_tokens", 0))
    completion = found.get("completion_tokens", found.get("output_tokens", 0))
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return None
    details = found.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(max(0, prompt), max(0, completion), cached if isinstance(cached, int) else 0)


def choices_of(event: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of an event, as far as they are what they should be."""
    choices = event.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
