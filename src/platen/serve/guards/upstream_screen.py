"""Answers that other services wrote, through the guards: whole ones and streams, completions and responses.

Texts are found where OpenAI's APIs have them: what choices say, the arguments of calls, items of responses. A
text that a guard ends is cut before what was found, as those of this server's own models are, and nothing of
the choice or response follows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from platen.serve.guards.actions import GuardRefusal
from platen.serve.guards.guards import Outgoing
from platen.serve.guards.response_fields import Event, Place, choice_with, objects, places, texts_in

NewScreen = Callable[[], Outgoing]


class RelayedScreen:
    """Screens one answer; `new_screen` makes a guard's screen for each of its texts.

    `choices` is how many were asked for: when all of them are withheld, the stream is `over`.
    """

    def __init__(self, new_screen: NewScreen, choices: int = 1) -> None:
        self._texts = _Texts(new_screen)
        self._choices = choices
        self._completion = _CompletionStream(new_screen)
        self._response = _ResponseStream(new_screen, self._texts)

    @property
    def over(self) -> bool:
        """Whether all that follows in the stream is to be left out."""
        return self._response.cut or len(self._completion.withheld) >= self._choices

    def whole(self, document: Event) -> None:
        """Change an answer to what may be passed on."""
        for choice in objects(document.get("choices")):
            choice.pop("logprobs", None)  # they would name the tokens that are masked
            try:
                self._texts.screen(choice)
            except GuardRefusal as refusal:
                choice["finish_reason"] = "content_filter"
                if isinstance(message := choice.get("message"), dict):
                    message["refusal"] = refusal.message
                    message.pop("tool_calls", None)
        if isinstance(document.get("output"), list):
            _whole_response(document, self._texts)

    def events(self, event: Event) -> list[Event]:
        """What is passed on in place of an event of a stream."""
        if str(event.get("type")).startswith("response."):
            return self._response.events(event)
        return self._completion.events(event) if "choices" in event else [event]

    def rest(self) -> list[Event]:
        """The stream is over: what was held back of choices that nothing ended."""
        return self._completion.rest()


class _Texts:
    """Whole texts, each looked over once however often it comes."""

    def __init__(self, new_screen: NewScreen) -> None:
        self._new_screen = new_screen
        self.known: dict[str, str] = {}

    def screen(self, value: Any) -> None:
        """Screen every text in `value`. Raises GuardRefusal when one is cut and those after it are gone."""
        refusal: GuardRefusal | None = None
        for holder, key in texts_in(value):
            if refusal is None:
                try:
                    holder[key] = self._screened(holder[key])
                except GuardRefusal as found:
                    holder[key], refusal = found.before, found
            else:
                holder[key] = ""
        if refusal is not None:
            raise refusal

    def _screened(self, text: str) -> str:
        if text not in self.known:
            screen, given = self._new_screen(), ""
            try:
                given = screen.push(text)
                self.known[text] = given + screen.finish()
            except GuardRefusal as refusal:
                refusal.before = given + refusal.before
                raise
        return self.known[text]


class _CompletionStream:
    """The events of `/chat/completions` and `/completions`. `withheld` are choices that a guard has ended."""

    def __init__(self, new_screen: NewScreen) -> None:
        self._new_screen = new_screen
        self._screens: dict[Any, dict[Place, Outgoing]] = {}
        self._frame: Event = {}
        self.withheld: set[Any] = set()

    def events(self, event: Event) -> list[Event]:
        choices = objects(event["choices"])
        kept = [choice for choice in choices if choice.get("index", 0) not in self.withheld]
        if choices and not kept:
            return []
        self._frame = {key: value for key, value in event.items() if key not in ("choices", "usage")}
        before: list[Event] = []
        for number, choice in enumerate(kept):
            rest, kept[number] = self._screened(choice)
            before += rest
        return [*before, event | {"choices": kept}]

    def rest(self) -> list[Event]:
        found: list[Event] = []
        for index in list(self._screens):
            rest, refused = self._finished(index)
            found += rest + ([self._event(refused)] if refused else [])
        return found

    def _screened(self, choice: Event) -> tuple[list[Event], Event]:
        """Events to come before a choice's own, which ends it, and what the choice becomes."""
        index = choice.get("index", 0)
        choice.pop("logprobs", None)
        screens = self._screens.setdefault(index, {})
        for place, holder, key in places(choice):
            if place not in screens:
                screens[place] = self._new_screen()
            try:
                holder[key] = screens[place].push(holder[key])
            except GuardRefusal as refusal:
                return [], self._refused(index, place, refusal)
        if not choice.get("finish_reason"):
            return [], choice
        rest, refused = self._finished(index)
        if not rest and refused is None:
            return [], choice
        # What this event says itself comes before what was held back behind it.
        said = [
            self._event(choice_with(index, at, holder[key]))
            for at, holder, key in places(choice)
            if holder[key]
        ]
        for _, holder, key in places(choice):
            holder[key] = ""
        return said + rest, refused or choice

    def _finished(self, index: Any) -> tuple[list[Event], Event | None]:
        """What was held back of a choice, and how it ends if a guard refuses that."""
        found: list[Event] = []
        for place, screen in self._screens.pop(index, {}).items():
            try:
                rest = screen.finish()
            except GuardRefusal as refusal:
                return found, self._refused(index, place, refusal)
            if rest:
                found.append(self._event(choice_with(index, place, rest)))
        return found, None

    def _refused(self, index: Any, place: Place, refusal: GuardRefusal) -> Event:
        """A choice's last piece: what stands before a finding."""
        self.withheld.add(index)
        self._screens.pop(index, None)
        choice = choice_with(index, place, refusal.before) | {"finish_reason": "content_filter"}
        if "delta" in choice:
            choice["delta"]["refusal"] = refusal.message
        return choice

    def _event(self, choice: Event) -> Event:
        return self._frame | {"choices": [choice]}


class _ResponseStream:
    """The typed events of `/responses`, numbered anew. `cut` when a guard has ended it."""

    def __init__(self, new_screen: NewScreen, texts: _Texts) -> None:
        self._new_screen, self._texts = new_screen, texts
        self._open: dict[tuple[Any, ...], _OpenText] = {}
        self._items: list[Event] = []
        self._response: Event = {}
        self._number = 0
        self.cut = False

    def events(self, event: Event) -> list[Event]:
        if self.cut:
            return []
        return [self._numbered(one) for one in self._screened(event)]

    def _screened(self, event: Event) -> list[Event]:
        kind, _, step = str(event["type"]).rpartition(".")
        place = (kind, event.get("item_id"), event.get("output_index"), event.get("content_index"))
        event.pop("logprobs", None)
        try:
            if step == "delta" and isinstance(event.get("delta"), str):
                if place not in self._open:
                    self._open[place] = _OpenText(event, self._new_screen())
                return [event | {"delta": self._open[place].push(event["delta"])}]
            before = self._done(place) if step == "done" else []
            if isinstance(response := event.get("response"), dict):
                self._response = response
                _whole_response(response, self._texts)
                if (response.get("incomplete_details") or {}).get("reason") == "content_filter":
                    event["type"] = "response.incomplete"
            else:
                self._texts.screen(event)
            if kind == "response.output_item" and step == "done":
                self._items.append(event["item"])
            return [*before, event]
        except GuardRefusal as refusal:
            self.cut = True
            return self._ending(self._open.get(place), refusal)

    def _done(self, place: tuple[Any, ...]) -> list[Event]:
        """What was held back of a text that is complete now."""
        text = self._open.pop(place, None)
        if text is None:
            return []
        rest = text.finish()
        self._texts.known[text.raw] = text.given
        return [text.event | {"delta": rest}] if rest else []

    def _ending(self, text: _OpenText | None, refusal: GuardRefusal) -> list[Event]:
        """The last events of a response that a guard ends: what stands before the finding, and the end."""
        events, items = [], list(self._items)
        if text is not None:
            events = [text.event | {"delta": refusal.before}] if refusal.before else []
            content = {"type": "output_text", "text": text.given + refusal.before, "annotations": []}
            item = {"id": text.event.get("item_id"), "type": "message", "role": "assistant"}
            if "output_text" in text.event["type"]:
                items.append(item | {"status": "incomplete", "content": [content]})
        response = self._response | {"output": items, **_CUT}
        return [*events, {"type": "response.incomplete", "sequence_number": 0, "response": response}]

    def _numbered(self, event: Event) -> Event:
        if "sequence_number" in event:
            event, self._number = event | {"sequence_number": self._number}, self._number + 1
        return event


class _OpenText:
    """A text of a response as it grows: `raw` as it came, `given` as it went on, in events like `event`."""

    def __init__(self, event: Event, screen: Outgoing) -> None:
        self.event, self._screen = event, screen
        self.raw = self.given = ""

    def push(self, piece: str) -> str:
        self.raw += piece
        given = self._screen.push(piece)
        self.given += given
        return given

    def finish(self) -> str:
        rest = self._screen.finish()
        self.given += rest
        return rest


_CUT = {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}


def _whole_response(response: Event, texts: _Texts) -> None:
    items = response.get("output")
    if not isinstance(items, list):
        return
    for number, item in enumerate(items):
        try:
            texts.screen(item)
        except GuardRefusal:
            response |= {"output": items[: number + 1], **_CUT}
            return
