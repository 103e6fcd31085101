"""An upstream's answer on its way to a client: this server's name of the model in it, its tokens counted, all
else as it came. Whole answers and server-sent events of OpenAI's APIs.
"""

from __future__ import annotations

from typing import Any

import orjson

from platen.engines.protocol import Usage

MAX_EVENT_BYTES = 16 * 2**20
_ENDINGS = ("response.completed", "response.incomplete", "response.failed")


class NotAnAnswer(Exception):
    """What the upstream sent is no answer of OpenAI's APIs."""


def relay_whole(body: bytes, model: str) -> tuple[bytes, Usage | None]:
    """A whole answer as the client gets it, and the tokens it took. Raises NotAnAnswer."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise NotAnAnswer from None
    if not isinstance(document, dict):
        raise NotAnAnswer
    renamed = _rename(document, model)
    return orjson.dumps(document) if renamed else body, _usage(document)


class EventRelay:
    """Takes a stream piece by piece and gives what may be passed on: always whole lines.

    With `hide_usage` the event that only carries token counts, which the client did not ask for, is left out.
    """

    def __init__(self, model: str, *, hide_usage: bool) -> None:
        self._model, self._hide_usage = model, hide_usage
        self._held = b""
        self._hidden = False
        self.usage: Usage | None = None
        self.events = 0
        """Events with content so far; about as many tokens."""
        self.complete = False
        """Whether the answer has come to its end, as opposed to being cut off."""

    def push(self, piece: bytes) -> bytes:
        """Add bytes; the lines that are now whole. Raises NotAnAnswer when a line has no end."""
        data = self._held + piece
        end = data.rfind(b"\n") + 1
        self._held = data[end:]
        if len(self._held) > MAX_EVENT_BYTES:
            raise NotAnAnswer
        return b"".join([self._line(line) for line in data[:end].splitlines(keepends=True)])

    def finish(self) -> bytes:
        """What is left when the upstream has ended its stream."""
        last, self._held = self._held, b""
        return self._line(last) if last else b""

    def _line(self, line: bytes) -> bytes:
        if line.startswith(b"data:"):
            return self._data(line)
        hidden, self._hidden = self._hidden, False
        return b"" if hidden and not line.strip() else line  # the blank line that ends a hidden event

    def _data(self, line: bytes) -> bytes:
        content = line[5:].strip()
        if content == b"[DONE]":
            self.complete = True
            return line
        try:
            event = orjson.loads(content)
        except orjson.JSONDecodeError:
            return line
        if not isinstance(event, dict):
            return line
        self.events += 1
        self._note(event)
        if self._hide_usage and event.get("choices") == [] and event.get("usage"):
            self._hidden = True
            return b""
        renamed = _rename(event, self._model)
        return b"data: " + orjson.dumps(event) + b"\n" if renamed else line

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("usage"):
            self.usage = _usage(event) or self.usage
        if event.get("type") in _ENDINGS or event.get("error"):
            self.complete = True
            if isinstance(event.get("response"), dict):
                self.usage = _usage(event["response"]) or self.usage
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("finish_reason"):
                self.complete = True


def _rename(document: dict[str, Any], model: str) -> bool:
    """Put our name of the model where the upstream has its own; whether that changed anything."""
    changed = False
    for holder in (document, document.get("response")):
        if isinstance(holder, dict) and holder.get("model", model) != model:
            holder["model"] = model
            changed = True
    return changed


def _usage(document: dict[str, Any]) -> Usage | None:
    """Token counts, in the names of completions or of responses."""
    found = document.get("usage")
    if not isinstance(found, dict):
        return None
    prompt = found.get("prompt_tokens", found.get("input_tokens", 0))
    completion = found.get("completion_tokens", found.get("output_tokens", 0))
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return None
    return Usage(max(0, prompt), max(0, completion))
