"""What `platen serve` shows while it starts: how far a download is, and where the time went."""

from __future__ import annotations

import time
from contextlib import ExitStack

from platen.phases import Phases
from platen.stages import Task


def start_phases() -> Phases:
    """Where the time goes from here on, beside what this process has taken until now."""
    phases = Phases()
    phases.add("start Python", _process_age())
    return phases


def explain(phases: Phases) -> None:
    """Print a table of what the process's time went to."""
    from rich.console import Console
    from rich.table import Table

    total = _process_age()
    table = Table("start-up", "seconds", "share", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    rest = total - sum(phases.seconds.values())
    for name, seconds in [*phases.seconds.items(), ("other", rest), ("ready after", total)]:
        table.add_row(name, f"{seconds:.2f}", f"{seconds / total:.0%}")
    Console(highlight=False).print(table)


def _process_age() -> float:
    import psutil

    return time.time() - psutil.Process().create_time()


class DownloadBar:
    """A bar with rate and time left, there from the first report until all bytes are."""

    def __init__(self) -> None:
        self._shown = ExitStack()
        self._task: Task | None = None

    def update(self, done: int, total: int) -> None:
        if self._task is None:
            from platen.cli.console import ConsoleObserver

            bar = ConsoleObserver().task("downloading", total=total, unit="B")
            self._task = self._shown.enter_context(bar)
        self._task.update(done, total=total)
        if done >= total:
            self._close()

    def __enter__(self) -> DownloadBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        self._shown.close()
        self._task = None
