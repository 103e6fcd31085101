"""Masks secrets and personal data with the scanners that guard prompts, or drops documents that have any."""

from __future__ import annotations

import hashlib
from pathlib import Path

from datatrove.data import Document

from platen.data.filters.block import Block, Removed
from platen.data.filters.config import PiiBlock
from platen.data.filters.names import Names
from platen.scan.masks import masking
from platen.scan.phones import Phones
from platen.scan.screen import Match, Scanner, screened
from platen.scan.secrets import Secrets


class Redactor:
    """Blackens what the block looks for, for examples in a report."""

    def __init__(self, config: PiiBlock, directory: Path) -> None:
        self._scanners = scanners(config, directory)

    def __call__(self, text: str) -> str:
        for scanner in self._scanners:
            text = screened(scanner, lambda match, found: "█" * len(found), text)
        return text


class Pii(Block):
    """`seed` keys the hashes, so that equal things have equal marks in all runs of a project."""

    def __init__(self, config: PiiBlock, directory: Path, seed: int) -> None:
        """Raises BundleError for a model of names that can't be opened, MissingExtraError."""
        super().__init__(config.block)
        self._config = config
        self._scanners = scanners(config, directory)
        self._key = hashlib.sha256(f"platen {seed}".encode()).digest()

    def apply(self, document: Document) -> str | Removed:
        mask = masking(self._config.mask, self._key)
        seen: list[str] = []

        def replace(match: Match, text: str) -> str:
            seen.append(match.rule)
            return mask(match, text)

        text: str = document.text
        for scanner in self._scanners:
            text = screened(scanner, replace, text)
        for rule in seen:
            self.found(rule)
        if seen and self._config.action == "drop":
            matches = (match for scanner in self._scanners for match in scanner.matches(document.text, 0))
            return Removed(seen[0], next(matches).start)
        return text


def scanners(config: PiiBlock, directory: Path) -> tuple[Scanner, ...]:
    """What looks for the block's kinds. Names come last: those in addresses are part of the addresses."""
    national = (Phones(config.regions),) if config.regions and "phone" in config.kinds else ()
    names = (Names(directory / config.names),) if config.names is not None else ()
    return (Secrets(config.kinds), *national, *names)
