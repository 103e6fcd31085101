"""The errors that a user can cause. Each says what was wrong, where, and what to do.

The CLI prints `str(error)` and exits with `error.exit_code`; it never shows a traceback for one of
these. The server turns them into OpenAI error objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class PlatenError(Exception):
    """Base of every error a user can cause.

    `hint` is the one thing to do about it, printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message


class ConfigError(PlatenError):
    """`platen.yaml`, `--set` or an option is wrong; nothing has started."""

    exit_code = 2


class MissingExtraError(PlatenError):
    """A command needs an optional dependency group that is not installed."""

    exit_code = 2

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what} needs the extra [{extra}].", hint=f"pip install 'platen[{extra}]'")


class DataError(PlatenError):
    """A source document or corpus can't be used."""

    exit_code = 3


class ArtifactError(PlatenError):
    """An artifact or the store that holds it is missing, damaged or busy."""

    exit_code = 4


class BundleError(PlatenError):
    """A model directory can't be opened: damaged, unsupported, or its parts disagree."""

    exit_code = 5


class TrainingError(PlatenError):
    """Training can't go on (divergence, not enough data)."""

    exit_code = 6


class GateFailed(PlatenError):
    """The evaluation missed a gate; nothing was released."""

    exit_code = 7


class RegistryError(PlatenError):
    """The registry refused: unknown version, live version, promotion without a passed gate."""

    exit_code = 8


def first_line(error: BaseException) -> str:
    """What an error of a library says in one line, or its type when it says nothing."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """The same of a library that tells where it failed before it tells why, as OpenVINO."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    return (str(error).strip() or type(error).__name__).splitlines()


def complaint(details: Mapping[str, Any]) -> str:
    """What pydantic has against a value, one of its `errors()`, without its own words before a check's."""
    return str(details["msg"]).removeprefix("Value error, ")
