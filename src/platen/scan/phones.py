"""Finds phone numbers as they are written inside a country, by its numbering plan (`phonenumbers`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from platen.scan.screen import Match

# A number in groups, or one that begins with the trunk prefix 0 or a bracket; the library decides.
_CANDIDATE = re.compile(
    r"(?<![\w.+/-])(?<![0-9] )(?=[(0]|[0-9]{1,5}[ ./-])"
    r"\(?[0-9]{1,5}\)?(?:[ ./-]{0,2}\(?[0-9]{1,10}\)?){1,6}(?![\w/-]|\.[0-9])"
)


class Phones:
    """A scanner for the given countries (ISO 3166 codes)."""

    name = "phones"

    def __init__(self, regions: Iterable[str]) -> None:
        self._regions = tuple(regions)

    def matches(self, text: str, start: int) -> Iterator[Match]:
        for found in _CANDIDATE.finditer(text, start):
            if self._is_number(found.group()):
                yield Match("phone", found.start(), found.end(), found.start(), found.end())

    def hold(self, text: str, start: int) -> int:
        """Whole texts only: nothing is held back."""
        return len(text)

    def _is_number(self, written: str) -> bool:
        import phonenumbers

        if not 7 <= sum(map(str.isdigit, written)) <= 15:
            return False
        for region in self._regions:
            try:
                number = phonenumbers.parse(written, region)
            except phonenumbers.NumberParseException:
                continue
            if phonenumbers.is_valid_number(number):
                return True
        return False
