"""Finds what an operator's own regular expressions match, in time linear in the text.

A pattern is taken only if its matches are bounded and it can be tried at one place in few steps: no `*`, `+`
without a bound, look-around or back-reference. What is refused is refused when the server starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import regex

from platen.core.errors import ConfigError
from platen.scan.fold import fold_width
from platen.scan.screen import Match

LONGEST_MATCH = 128
MOST_STEPS = 1_000
"""Ways in which a pattern may be tried at one place, at most."""


_LOOSE_BRACE = re.compile(r"(?<!\\)\{(?![0-9]+(?:,[0-9]+)?\})")
"""`regex` would read it as fuzzy matching."""


class Patterns:
    """Regular expressions, without regard to case."""

    name = "blocklist"

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises ConfigError for one that is refused."""
        each = [f"(?:{checked(pattern)})" for pattern in patterns]
        self._any = regex.compile("|".join(each) or r"(?!)", regex.IGNORECASE)

    def matches(self, text: str, start: int) -> Iterator[Match]:
        for found in self._any.finditer(fold_width(text), start):
            if found.end() > found.start():
                yield Match("pattern", found.start(), found.end(), found.start(), found.end())

    def hold(self, text: str, start: int) -> int:
        plain, end = fold_width(text), len(text)
        for place in range(max(start, end - LONGEST_MATCH), end):
            if self._any.fullmatch(plain, place, end, partial=True):
                return place
        return end


def checked(pattern: str) -> str:
    """The pattern itself. Raises ConfigError when it is none or could take long."""
    try:
        tree = _parser.parse(pattern, re.IGNORECASE)
        if tree.state.flags & ~(re.IGNORECASE | re.UNICODE):
            raise ValueError("flags are not among what block lists take")
        if _LOOSE_BRACE.search(pattern):
            raise ValueError("a brace that does not bound a repeat must be written \\{")
        longest = tree.getwidth()[1]
        steps = _steps(tree)
    except (re.error, ValueError, RecursionError) as error:
        raise ConfigError(f"the pattern '{pattern}' can't be used: {error}") from None
    if longest > LONGEST_MATCH:
        raise ConfigError(
            f"the pattern '{pattern}' can match more than {LONGEST_MATCH} characters",
            hint="Bound what repeats: {0,20} in place of * or +.",
        )
    if steps > MOST_STEPS:
        raise ConfigError(
            f"the pattern '{pattern}' could take {steps:,} steps at each character",
            hint="Have fewer parts that repeat, or smaller bounds.",
        )
    return pattern


def _steps(tree: Any) -> int:
    """In how many ways at most a parsed pattern can be tried at one place. Raises ValueError."""
    steps = 1
    for operator, argument in tree:
        if operator in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN):
            continue
        if operator is sre.AT and argument is sre.AT_BOUNDARY:
            continue
        if operator is sre.BRANCH:
            steps *= sum(_steps(branch) for branch in argument[1])
        elif operator is sre.SUBPATTERN:
            if argument[1] or argument[2]:
                raise ValueError("flags are not among what block lists take")
            steps *= _steps(argument[3])
        elif operator in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            low, high, part = argument
            steps *= sum(_steps(part) ** min(count, 40) for count in range(low, min(high, 1000) + 1))
        else:
            raise ValueError(f"{str(operator).lower()} is not among what block lists take")
    return steps
