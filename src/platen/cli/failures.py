"""Failures that no one foresaw, in a line or two: what the system refused, or where the details are kept."""

from __future__ import annotations

import errno
import tempfile
import traceback
from collections.abc import Iterator

_SPACE = "free some space (`platen gc`) or move the store (`store:` in platen.yaml)"
_ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EACCES: "check the permissions",
    errno.EROFS: "choose a place that can be written",
}


def describe_failure(error: BaseException) -> tuple[str, int]:
    """A message and an exit code: 1 for what the system refused, 70 for a fault of Platen's own.

    A full disk or a missing permission is told as such, however deep in a library it struck. For
    anything else the trace, which a report of the fault needs, goes to a file.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno:
            where = f"{cause.filename}: " if cause.filename else ""
            advice = _ADVICE.get(cause.errno)
            return f"{where}{cause.strerror}" + (f"\n  → {advice}" if advice else ""), 1
        if "disk is full" in str(cause) or "No space left" in str(cause):
            return f"no space left on the disk ({type(cause).__name__})\n  → {_SPACE}", 1
    with tempfile.NamedTemporaryFile("w", prefix="platen-", suffix=".log", delete=False) as log:
        log.writelines(traceback.format_exception(error))
    return (
        f"{type(error).__name__}: {error}\n  → this is a fault of Platen; report it with {log.name}",
        70,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
