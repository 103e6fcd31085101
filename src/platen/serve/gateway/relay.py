"""An upstream's answer on its way to a client: this server's name of the model in it, its tokens counted, all
else as it came. Whole answers and server-sent events of OpenAI's APIs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from platen.engines.protocol import Usage
from platen.engines.remote.events import Lines, choices_of, event_of, is_done, usage_of
from platen.serve.guards.upstream_screen import RelayedScreen

Hide = Callable[[bytes], bytes]
"""Gives JSON without what an error must not show, the upstream's key."""
_ENDINGS = ("response.completed", "response.incomplete", "response.failed")


@dataclass(frozen=True)
class Whole:
    """A whole answer as the client gets it, the tokens it took if it says so, and whether it is an error."""

    body: bytes
    usage: Usage | None
    failed: bool


def relay_whole(body: bytes, model: str, screen: RelayedScreen | None = None, hide: Hide = bytes) -> Whole:
    """The answer with this server's name of the model. Raises ValueError when it is none."""
    document = orjson.loads(body)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    if failed := _has_error(document):
        document = orjson.loads(hide(body))
    changed = _rename(document, model) or failed
    if screen is not None:
        screen.whole(document)
        changed = True
    return Whole(orjson.dumps(document) if changed else body, usage_of(document), failed)


class EventRelay:
    """Takes a stream piece by piece and gives what may be passed on: always whole lines.

    With `hide_usage` the event that only carries token counts, which the client did not ask for, is left out.
    With `screen` texts are passed on as that lets them.
    """

    def __init__(
        self, model: str, *, hide_usage: bool, screen: RelayedScreen | None = None, hide: Hide = bytes
    ) -> None:
        self._model, self._hide_usage, self._screen, self._hide = model, hide_usage, screen, hide
        self._lines = Lines()
        self._hidden = self._typed = False
        self.usage: Usage | None = None
        self.events = 0
        """Events so far; about as many tokens."""
        self.complete = False
        """Whether the answer has come to its end, as opposed to being cut off."""
        self.failed = False
        """Whether the upstream has told of an error in it."""

    def push(self, piece: bytes) -> bytes:
        """Add bytes; the lines that are now whole. Raises ValueError when one has no end."""
        return b"".join(map(self._relayed, self._lines.push(piece)))

    def finish(self) -> bytes:
        """What is left when the upstream has ended its stream, or a guard has."""
        if self.withheld:
            self.complete = True
            return b"\n" if self._typed else b"\ndata: [DONE]\n\n"
        return b"".join(map(self._relayed, self._lines.finish()))

    def _relayed(self, line: bytes) -> bytes:
        if self._hidden and not line.strip():
            self._hidden = False
            return b""  # the blank line that ends a hidden event
        event = event_of(line)
        if event is None:
            self.complete = self.complete or is_done(line)
            return line if self._screen is None else self._screened_line(line, self._screen)
        self.events += 1
        if changed := _has_error(event):
            self.failed = True
            event = orjson.loads(self._hide(orjson.dumps(event)))
        self._note(event)
        if self._hide_usage and event.get("choices") == [] and event.get("usage"):
            self._hidden = True
            return b""
        changed |= _rename(event, self._model)
        if self._screen is not None:
            self._typed = "choices" not in event
            return self._screened(self._screen.events(event))
        return b"data: " + orjson.dumps(event) + b"\n" if changed else line

    @property
    def withheld(self) -> bool:
        """Whether a guard has ended the answer, so that nothing more of it is to be passed on."""
        return self._screen is not None and self._screen.over

    def _screened_line(self, line: bytes, screen: RelayedScreen) -> bytes:
        """A line that is no event. An event's name is written with its data; unreadable data is no answer."""
        if self.withheld:
            return b""
        if is_done(line):
            rest = self._screened(screen.rest())
            return rest + (b"\n" if rest else b"") + line
        if line.startswith(b"data:"):
            raise ValueError("an event that is not JSON")
        return b"" if line.startswith(b"event:") else line

    def _screened(self, events: Sequence[dict[str, Any]]) -> bytes:
        """Events as lines, all but the blank one after the last, which is on its way."""
        self._hidden = not events
        named = (b"event: %b\n" % str(event["type"]).encode() if "type" in event else b"" for event in events)
        data = (b"data: " + orjson.dumps(event) for event in events)
        return b"\n\n".join(name + one for name, one in zip(named, data, strict=True)) + (
            b"\n" if events else b""
        )

    def _note(self, event: dict[str, Any]) -> None:
        self.usage = usage_of(event) or self.usage
        if event.get("type") in _ENDINGS or self.failed:
            self.complete = True
            if isinstance(event.get("response"), dict):
                self.usage = usage_of(event["response"]) or self.usage
        if any(choice.get("finish_reason") for choice in choices_of(event)):
            self.complete = True


def _has_error(document: dict[str, Any]) -> bool:
    """Whether an answer or event tells of a failure, by itself or in the response that it carries."""
    response, kind = document.get("response"), document.get("type")
    if kind in ("error", "response.failed") or document.get("error"):
        return True
    return isinstance(response, dict) and bool(response.get("error"))


def _rename(document: dict[str, Any], model: str) -> bool:
    """Put our name of the model where the upstream has its own; whether that changed anything."""
    changed = False
    for holder in (document, document.get("response")):
        if isinstance(holder, dict) and holder.get("model", model) != model:
            holder["model"] = model
            changed = True
    return changed
