"""Looks over a text that may come in pieces, and gives it on with what was found masked, or stops it.

A scanner says where its matches are and from where on the end of a text could still become one: only that
much is held back. However a text is cut into pieces, decision and text are those of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

CONTEXT = 8
"""Characters before a place that a scanner may look back at."""

END_MARKER = 128
"""An end that is looked for spans at most so many characters."""


@dataclass(frozen=True)
class Match:
    """Characters `start` to `end` of a text are what `rule` looks for; the evidence begins at `anchor`.

    As far as `known`, a match is the same however the text came in pieces.
    With `until`, the end is not in the text yet: the match goes on, after `end`, through what this pattern
    finds.
    """

    rule: str
    start: int
    end: int
    anchor: int
    known: int
    until: re.Pattern[str] | None = None


class Scanner(Protocol):
    name: str

    def matches(self, text: str, start: int) -> Iterator[Match]:
        """What there is from `start` on, in order and without overlap; each is the earliest there is.

        A scanner may look at `CONTEXT` characters before `start`.
        """
        ...

    def hold(self, text: str, start: int) -> int:
        """From where on, at or after `start`, the text could become part of a match if it went on."""
        ...


class Blocked(Exception):
    """A match that ends the text; `before` is what of it, not yet given on, stands before the match."""

    def __init__(self, match: Match, scanner: Scanner, before: str) -> None:
        super().__init__(match.rule)
        self.match, self.scanner, self.before = match, scanner, before


Replace = Callable[[Match, str], str | None]
"""What stands in the place of a match with this text: the text itself lets it pass, None ends the text."""


class Screen:
    """One scanner over one text.

    `push` and `finish` give the text that can go on; they raise Blocked when `replace` ends it.
    """

    def __init__(self, scanner: Scanner, replace: Replace) -> None:
        self._scanner, self._replace = scanner, replace
        self._text = ""
        self._at = 0
        self._until: re.Pattern[str] | None = None

    def push(self, piece: str) -> str:
        """Take the next piece."""
        self._text += piece
        if self._until is not None:
            self._skip(self._until)
        if self._until is not None or self._at == len(self._text):
            return ""
        return self._go(self._scanner.hold(self._text, self._at))

    def finish(self) -> str:
        """The text is over: what was held back."""
        return "" if self._until is not None else self._go(len(self._text))

    def _go(self, hold: int) -> str:
        """Give on everything before `hold` and the matches that begin there."""
        given: list[str] = []
        for match in self._scanner.matches(self._text, self._at):
            if match.anchor >= hold:
                break
            given.append(self._text[self._at : match.start])
            text = self._text[match.start : match.end]
            instead = self._replace(match, text)
            if instead is None:
                raise Blocked(match, self._scanner, "".join(given))
            given.append(instead)
            if match.until is not None and instead != text:
                self._until = match.until
                self._drop(max(match.end, len(self._text) - END_MARKER))
                return "".join(given)
            self._at = match.end
        given.append(self._text[self._at : hold])
        self._drop(max(hold, self._at))
        return "".join(given)

    def _skip(self, until: re.Pattern[str]) -> None:
        """Drop the rest of a match whose end may come now."""
        found = until.search(self._text, self._at)
        if found is not None:
            self._until = None
            self._drop(found.end())
        else:
            self._drop(max(self._at, len(self._text) - END_MARKER))

    def _drop(self, place: int) -> None:
        """Be done with what stands before `place`."""
        first = max(0, place - CONTEXT)
        self._text, self._at = self._text[first:], place - first


def screened(scanner: Scanner, replace: Replace, text: str) -> str:
    """A whole text looked over. Raises Blocked."""
    screen = Screen(scanner, replace)
    given = screen.push(text)
    try:
        return given + screen.finish()
    except Blocked as blocked:
        blocked.before = given + blocked.before
        raise
