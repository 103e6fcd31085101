"""Says which extra to install where a library is missing."""

from __future__ import annotations

from importlib.util import find_spec

from platen.core.errors import MissingExtraError


def needs(module: str, what: str, extra: str = "data") -> None:
    """Raise MissingExtraError unless `module` is installed, which comes with the extra."""
    if find_spec(module) is None:
        raise MissingExtraError(extra, what)
