"""Looks over the texts of one request while they are written: the guards' screens and the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from platen.engines.protocol import TokenEvent, Usage
from platen.serve.guards.actions import GuardRefusal
from platen.serve.guards.guards import Outgoing
from platen.serve.metrics import Metrics


class Oversight:
    """Over all choices of one request; `new_screen` makes one for each, None leaves them as they are."""

    def __init__(
        self, metrics: Metrics | None, model: str, new_screen: Callable[[], Outgoing] | None
    ) -> None:
        """Ends are told to `metrics` under the name `model`."""
        self._metrics, self._model, self._new_screen = metrics, model, new_screen
        self._screens: dict[int, Outgoing] = {}
        self._written: Counter[int] = Counter()

    @property
    def screens(self) -> bool:
        """Whether texts are changed, so that log-probabilities would tell what was in them."""
        return self._new_screen is not None

    def passed(self, index: int, event: TokenEvent, prompt_tokens: int) -> tuple[TokenEvent, str | None]:
        """What of a choice's event may go on, and the refusal if a guard ends the text with it."""
        if self._new_screen is None:
            return event, None
        screen = self._screens.setdefault(index, self._new_screen())
        self._written[index] += len(event.token_ids)
        text = ""
        try:
            text = screen.push(event.text)
            if event.finish_reason is not None:
                text += screen.finish()
        except GuardRefusal as refusal:
            usage = event.usage or Usage(prompt_tokens, self._written[index])
            text += refusal.before
            return replace(event, text=text, finish_reason="content_filter", usage=usage), refusal.message
        return replace(event, text=text), None

    def ended(self, event: TokenEvent) -> None:
        """This was a choice's last event."""
        if self._metrics is not None:
            self._metrics.ended(self._model, str(event.finish_reason), event.usage, event.timings)

    def failed(self) -> None:
        """A choice was begun, and the engine has failed or the server is closing."""
        if self._metrics is not None:
            self._metrics.ended(self._model, "error", None, None)

    def cancelled(self) -> None:
        """A choice was given up: nobody waits for it."""
        if self._metrics is not None:
            self._metrics.cancelled(self._model)


UNSEEN = Oversight(None, "", None)
"""Nobody looks."""
