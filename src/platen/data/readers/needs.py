"""Says which extra to install where a reader's library is missing."""

from __future__ import annotations

from importlib.util import find_spec

from platen.errors import MissingExtraError


def needs(module: str, what: str) -> None:
    """Raise MissingExtraError unless `module` is installed."""
    if find_spec(module) is None:
        raise MissingExtraError("data", what)
