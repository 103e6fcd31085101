"""Finds phone numbers as they are written inside a country, by its numbering plan (`phonenumbers`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from platen.core.errors import ConfigError
from platen.scan.screen import Match

# Digits in groups, one of which may stand in brackets; the library decides.
_CANDIDATE = re.compile(
    r"(?<![\w.+/-])(?<![0-9] )(?=[(0]|[0-9]{1,5}[ ./-])(?:\([0-9]{1,5}\)|[0-9]{1,5})"
    r"(?:[ ./-]{0,2}(?:\([0-9]{1,5}\)|[0-9]{1,10})){1,6}(?![\w/-]|[.:,][0-9])"
)
# Digits alone, decimals, dates and times: no numbering plan tells them from phone numbers.
_OTHER = re.compile(
    r"[0-9]+\Z|[0-9]+\.[0-9]+(?:[ /-]|\Z)|.*(?<![0-9])(?:19|20)[0-9]{2}[-/.][0-9]{2}[-/.]"
    r"|[0-9]{2}[-/.][0-9]{2}[-/.][0-9]{4}(?![0-9])"
)


class Phones:
    """A scanner for the given countries (ISO 3166 codes)."""

    name = "phones"

    def __init__(self, regions: Iterable[str]) -> None:
        """Raises ConfigError for a code without a numbering plan: it would find nothing, and not say so."""
        import phonenumbers

        self._regions = tuple(regions)
        if unknown := [region for region in self._regions if region not in phonenumbers.SUPPORTED_REGIONS]:
            raise ConfigError(
                f"regions: {', '.join(unknown)}: no country whose phone numbers are known",
                hint="Give codes of ISO 3166, such as GB for the United Kingdom. Known are "
                f"{' '.join(sorted(phonenumbers.SUPPORTED_REGIONS))}.",
            )

    def matches(self, text: str, start: int) -> Iterator[Match]:
        for found in _CANDIDATE.finditer(text, start):
            if self._is_number(found.group()):
                yield Match("phone", found.start(), found.end(), found.start(), found.end())

    def hold(self, text: str, start: int) -> int:
        """Whole texts only: nothing is held back."""
        return len(text)

    def _is_number(self, written: str) -> bool:
        import phonenumbers

        if not 7 <= sum(map(str.isdigit, written)) <= 15 or _OTHER.match(written):
            return False
        for region in self._regions:
            try:
                number = phonenumbers.parse(written, region)
            except phonenumbers.NumberParseException:
                continue
            if not phonenumbers.is_valid_number(number):
                continue
            usual = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
            # Without the trunk prefix or a bracket before it, only the country's own grouping tells.
            if written[0] in "(0" or _groups(written) == _groups(usual):
                return True
        return False


def _groups(written: str) -> list[int]:
    return list(map(len, re.findall("[0-9]+", written)))
