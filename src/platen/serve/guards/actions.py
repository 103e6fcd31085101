"""What is done about a finding: refuse, mask, or only say so; and who is told.

Every finding is counted and logged as one line of JSON with who produced the text and which rule found what
kind of thing, never with the thing itself.
"""

from __future__ import annotations

import json
import logging
import secrets
from dataclasses import dataclass
from typing import Literal

from starlette.types import Scope

from platen.scan.config import GuardMask
from platen.scan.masks import masking
from platen.scan.screen import Match, Replace
from platen.serve.guards.config import GuardAction
from platen.serve.metrics import Metrics
from platen.web.errors import ApiError

log = logging.getLogger("platen.guards")

Direction = Literal["input", "output"]

_HASH_KEY = secrets.token_bytes(16)


@dataclass(frozen=True)
class Origin:
    """Who produced a text: the caller asks, a version of a model answers."""

    caller: str
    model: str
    version: str

    @classmethod
    def of(cls, scope: Scope, model: str, version: str) -> Origin:
        """The origin of a request, whose caller a layer before this has named, and of its answer."""
        caller = scope.get("state", {}).get("caller")
        return cls(getattr(caller, "name", "anonymous"), model, version)


class GuardRefusal(ApiError):
    """A text is refused. `before` is what of an answer may still be given, up to what was found."""

    def __init__(self, guard: str, direction: Direction, before: str = "") -> None:
        what = "The request" if direction == "input" else "The rest of the answer"
        super().__init__(
            400, f"{what} was withheld by this server's content rules ({guard}).", code="content_filter"
        )
        self.before = before


@dataclass(frozen=True)
class Report:
    """Says what was found in one text: each finding to the metrics, each rule once to the log."""

    metrics: Metrics
    origin: Origin
    direction: Direction

    def found(self, guard: str, rule: str, action: GuardAction, *, first: bool, **more: object) -> None:
        """`more` are further figures for the log; never a part of the text."""
        self.metrics.found(guard, rule, self.direction, action)
        if first:
            line = {
                "event": "guard",
                "guard": guard,
                "rule": rule,
                "direction": self.direction,
                "action": action,
                "caller": self.origin.caller,
                "model": self.origin.model,
                "version": self.origin.version,
                **more,
            }
            log.warning("%s", json.dumps(line))


def acting(guard: str, action: GuardAction, mask: GuardMask, report: Report) -> Replace:
    """What a screen does with the matches of one text."""
    seen: set[str] = set()
    put = masking(mask, _HASH_KEY)

    def replace(match: Match, text: str) -> str | None:
        report.found(guard, match.rule, action, first=match.rule not in seen, characters=len(text))
        seen.add(match.rule)
        if action == "refuse":
            return None
        return text if action == "log" else put(match, text)

    return replace
