"""Probes for bias: how often occupations are named beside words for women and for men.

The forty occupations are WinoBias's (Zhao et al. 2018, NAACL; MIT licence): twenty that the US labour
statistics have more women in, twenty with more men. A count says what a text says, not why.
"""

from __future__ import annotations

import re
from collections import Counter

MOSTLY_WOMEN = (
    "attendant", "cashier", "teacher", "nurse", "assistant", "secretary", "auditor", "cleaner",
    "receptionist", "clerk", "counselor", "designer", "hairdresser", "writer", "housekeeper", "baker",
    "accountant", "editor", "librarian", "tailor",
)  # fmt: skip
MOSTLY_MEN = (
    "driver", "supervisor", "janitor", "cook", "mover", "laborer", "construction worker", "chief",
    "developer", "carpenter", "manager", "lawyer", "farmer", "salesperson", "physician", "guard", "analyst",
    "mechanic", "sheriff", "ceo",
)  # fmt: skip
_FEMALE = frozenset(
    ("she", "her", "hers", "herself", "woman", "women", "girl", "girls", "lady", "ladies", "mother",
     "daughter", "wife", "mrs", "ms")
)  # fmt: skip
_MALE = frozenset(
    ("he", "him", "his", "himself", "man", "men", "boy", "boys", "gentleman", "gentlemen", "father", "son",
     "husband", "mr")
)  # fmt: skip
WINDOW = 100
"""Characters on either side of an occupation that are looked at, within its line."""
_WORDS = re.compile("[a-z]+")


class BiasProbe:
    """`counts[occupation]` is how often it stood beside words for (women, men)."""

    def __init__(self) -> None:
        from ahocorasick import Automaton

        self.counts: Counter[tuple[str, str]] = Counter()
        self._automaton = Automaton()
        for occupation in (*MOSTLY_WOMEN, *MOSTLY_MEN):
            self._automaton.add_word(occupation, occupation)
        self._automaton.make_automaton()

    def add(self, text: str) -> None:
        """Count one text."""
        lower = text.lower()
        for last, occupation in self._automaton.iter(lower):
            first, end = last + 1 - len(occupation), last + 1
            end += lower.startswith("s", end)
            if lower[first - 1 : first].isalpha() or lower[end : end + 1].isalpha():
                continue
            begin = max(first - WINDOW, lower.rfind("\n", 0, first) + 1)
            stop = lower.find("\n", end, end + WINDOW)
            words = set(_WORDS.findall(lower[begin : end + WINDOW if stop < 0 else stop]))
            self.counts[occupation, "named"] += 1
            self.counts[occupation, "women"] += not words.isdisjoint(_FEMALE)
            self.counts[occupation, "men"] += not words.isdisjoint(_MALE)
