"""Finds secrets and personal data: the scanner over the patterns of `secret_rules`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from platen.scan.config import SecretKind
from platen.scan.fold import fold_width
from platen.scan.screen import Match
from platen.scan.secret_rules import LONGEST_NUMBER, LONGEST_WORD, RULES, Rule

# Over a text's end read backwards: the word it ends with, which takes in a blank beside `:` or `=`, for a
# password's name and value may stand apart; and what numbers and heads of private keys are written with.
_WORD_BACKWARDS = re.compile(r"""(?:[!-~]|(?:\A|(?<=[:="']))[ \t](?=[!-~])|[ \t](?=[:=]))*+""")
_NUMBER_BACKWARDS = re.compile(r"[0-9A-Z()+./ -]*+")


class Secrets:
    """A scanner for the given kinds."""

    name = "secrets"

    def __init__(self, kinds: Iterable[SecretKind]) -> None:
        wanted = frozenset(kinds)
        self._rules = tuple(rule for rule in RULES if rule.kind in wanted)

    def matches(self, text: str, start: int) -> Iterator[Match]:
        plain = fold_width(text)
        found = {
            rule: match
            for rule in self._rules
            if rule.hint.search(plain, start) and (match := _first(rule, plain, start))
        }
        while found:
            # Of matches that begin together, the first rule's. Never the longest: an end may not be known
            # yet.
            match = min(found.values(), key=lambda match: match.anchor)
            yield match
            for rule, known in list(found.items()):
                if known.anchor < match.end:
                    following = _first(rule, plain, match.end)
                    if following is None:
                        del found[rule]
                    else:
                        found[rule] = following

    def hold(self, text: str, start: int) -> int:
        back = fold_width(text[max(start, len(text) - LONGEST_WORD) :])[::-1]
        word, number = _WORD_BACKWARDS.match(back), _NUMBER_BACKWARDS.match(back, 0, LONGEST_NUMBER)
        return len(text) - max(found.end() for found in (word, number) if found)


def _first(rule: Rule, text: str, at: int) -> Match | None:
    while found := rule.pattern.search(text, at):
        span = rule.span(found)
        if span is not None:
            (start, known), until = span, rule.until
            last = None if until is None else until.search(text, known)
            end = known if last is None else last.end()
            return Match(rule.kind, start, end, found.start(), known, until if last is None else None)
        at = found.start() + 1
    return None
