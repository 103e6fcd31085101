"""An upstream's answer on its way to a client: this server's name of the model in it, its tokens counted, all
else as it came. Whole answers and server-sent events of OpenAI's APIs.
"""

from __future__ import annotations

from typing import Any

import orjson

from platen.engines.openai_events import Lines, choices_of, event_of, is_done, usage_of
from platen.engines.protocol import Usage

_ENDINGS = ("response.completed", "response.incomplete", "response.failed")


def relay_whole(body: bytes, model: str) -> tuple[bytes, Usage | None]:
    """A whole answer as the client gets it, and the tokens it took. Raises ValueError when it is none."""
    document = orjson.loads(body)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    renamed = _rename(document, model)
    return orjson.dumps(document) if renamed else body, usage_of(document)


class EventRelay:
    """Takes a stream piece by piece and gives what may be passed on: always whole lines.

    With `hide_usage` the event that only carries token counts, which the client did not ask for, is left out.
    """

    def __init__(self, model: str, *, hide_usage: bool) -> None:
        self._model, self._hide_usage = model, hide_usage
        self._lines = Lines()
        self._hidden = False
        self.usage: Usage | None = None
        self.events = 0
        """Events so far; about as many tokens."""
        self.complete = False
        """Whether the answer has come to its end, as opposed to being cut off."""

    def push(self, piece: bytes) -> bytes:
        """Add bytes; the lines that are now whole. Raises ValueError when one has no end."""
        return b"".join(map(self._relayed, self._lines.push(piece)))

    def finish(self) -> bytes:
        """What is left when the upstream has ended its stream."""
        return b"".join(map(self._relayed, self._lines.finish()))

    def _relayed(self, line: bytes) -> bytes:
        if self._hidden and not line.strip():
            self._hidden = False
            return b""  # the blank line that ends a hidden event
        event = event_of(line)
        if event is None:
            self.complete = self.complete or is_done(line)
            return line
        self.events += 1
        self._note(event)
        if self._hide_usage and event.get("choices") == [] and event.get("usage"):
            self._hidden = True
            return b""
        return b"data: " + orjson.dumps(event) + b"\n" if _rename(event, self._model) else line

    def _note(self, event: dict[str, Any]) -> None:
        self.usage = usage_of(event) or self.usage
        if event.get("type") in _ENDINGS or event.get("error"):
            self.complete = True
            if isinstance(event.get("response"), dict):
                self.usage = usage_of(event["response"]) or self.usage
        if any(choice.get("finish_reason") for choice in choices_of(event)):
            self.complete = True


def _rename(document: dict[str, Any], model: str) -> bool:
    """Put our name of the model where the upstream has its own; whether that changed anything."""
    changed = False
    for holder in (document, document.get("response")):
        if isinstance(holder, dict) and holder.get("model", model) != model:
            holder["model"] = model
            changed = True
    return changed
