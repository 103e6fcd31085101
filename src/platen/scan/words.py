"""Finds the entries of a list of words or of marks: an Aho-Corasick automaton over the folded text.

`Words` finds whole words and phrases, also when spelled out (`w o r d`); `Marks` finds a string of letters
and digits whatever stands between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ahocorasick import Automaton

from platen.scan.fold import Folded, fold
from platen.scan.screen import Match

LONGEST_ENTRY = 128
"""Characters of an entry, folded."""
LONGEST_MATCH = 512
"""Characters of the original text that a match may span, with what is invisible in it."""

_SEPARATORS = " .-_*"
_SPELLED_FROM = 4
"""Letters from which a word is also looked for spelled out; shorter ones are found by chance."""


class _Entries:
    """What both scanners share: the automaton, and which of its finds count."""

    def __init__(self, name: str, entries: Iterable[tuple[str, str]]) -> None:
        """`entries` are texts as they look folded, and the name of the rule that each stands for."""
        self.name = name
        self._automaton = Automaton()
        self._longest = 0
        for text, rule in entries:
            self._automaton.add_word(text, (len(text), rule))
            self._longest = max(self._longest, len(text))
        self._automaton.make_automaton()

    def matches(self, text: str, start: int) -> Iterator[Match]:
        folded = self._read(text)
        found = []
        for last, (length, rule) in self._automaton.iter(folded.text) if self._longest else ():
            first = last + 1 - length
            match = Match(rule, begin := folded.place(first), end := folded.place(last) + 1, begin, end)
            if start <= begin and end - begin <= LONGEST_MATCH and self._counts(text, match):
                found.append(match)
        found.sort(key=lambda match: (match.start, -match.end))
        for match in found:
            if match.start >= start:
                yield match
                start = match.end

    def hold(self, text: str, start: int) -> int:
        end = len(text)
        first = max(start, end - LONGEST_MATCH)
        tail = text[max(0, first - 1) :]
        folded, offset = self._read(tail), end - len(tail)
        for index in range(max(0, len(folded.text) - self._longest), len(folded.text)):
            place = offset + folded.place(index)
            if place >= first and self._begins(text, place) and self._automaton.match(folded.text[index:]):
                return place
        return end

    def _read(self, text: str) -> Folded:
        return fold(text)

    def _counts(self, text: str, match: Match) -> bool:
        return True

    def _begins(self, text: str, place: int) -> bool:
        return True


class Words(_Entries):
    """Whole words and phrases, without regard to case, accents, look-alikes and invisible characters."""

    def __init__(self, words: Iterable[str], name: str = "blocklist") -> None:
        super().__init__(name, {form: "word" for word in words for form in _forms(word)}.items())

    def _counts(self, text: str, match: Match) -> bool:
        return self._begins(text, match.start) and not (
            text[match.end - 1].isalnum() and text[match.end : match.end + 1].isalnum()
        )

    def _begins(self, text: str, place: int) -> bool:
        return not (place and text[place - 1].isalnum() and text[place].isalnum())


def _forms(word: str) -> Iterator[str]:
    plain = fold(word).text
    if plain:
        yield plain
    if plain.isalnum() and len(plain) >= _SPELLED_FROM:
        yield from (separator.join(plain) for separator in _SEPARATORS)


class Marks(_Entries):
    """Strings of letters and digits, whatever stands between those."""

    def __init__(self, marks: Iterable[tuple[str, str]], name: str) -> None:
        super().__init__(name, ((_bare(fold(mark)).text, rule) for mark, rule in marks))

    def _read(self, text: str) -> Folded:
        return _bare(fold(text))


def _bare(folded: Folded) -> Folded:
    """Only the letters and digits."""
    kept = [index for index, letter in enumerate(folded.text) if letter.isalnum()]
    return Folded("".join(folded.text[index] for index in kept), [folded.place(index) for index in kept])
