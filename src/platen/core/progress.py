"""Where a stage reports what it is doing and how far it is, and where it sends its curves.

Nothing here knows the terminal or MLflow: `cli` draws the progress, `registry` keeps the curves.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One progress bar. `completed` and `total` are in the task's unit; rate and time left follow."""

    def update(self, completed: float, *, total: float | None = None, note: str | None = None) -> None:
        """Move the bar to `completed`; `note` is a short live text such as `loss 2.31 · 9.8k tok/s`."""
        ...


class Progress(Protocol):
    """Where a stage reports what it is doing."""

    def task(
        self, description: str, *, total: float | None = None, unit: str = ""
    ) -> AbstractContextManager[Task]:
        """Open a progress bar; it disappears when the context ends."""
        ...

    def say(self, message: str) -> None:
        """Print one line that stays."""
        ...


class Tracker(Protocol):
    """Where a stage sends its curves while it runs (MLflow, or nothing)."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def params(self, params: Mapping[str, object]) -> None: ...


class _SilentTask:
    def update(self, completed: float, *, total: float | None = None, note: str | None = None) -> None:
        pass


class SilentProgress:
    """Reports nothing: for tests, further processes of a stage, and library use."""

    def task(
        self, description: str, *, total: float | None = None, unit: str = ""
    ) -> AbstractContextManager[Task]:
        return nullcontext(_SilentTask())

    def say(self, message: str) -> None:
        pass


class NullTracker:
    """Keeps nothing."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def params(self, params: Mapping[str, object]) -> None:
        pass
