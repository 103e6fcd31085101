"""What the terminal shows while a pipeline runs: stages, bars with rate and time left, lines that stay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from platen.core.artifacts import Manifest
from platen.core.progress import Task
from platen.pipeline.planner import PlannedStage


def human_size(size: float) -> str:
    """Bytes with a decimal unit: 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_count(count: float) -> str:
    """A count in three digits or so: 9.8k."""
    for unit in ("", "k", "M", "G"):
        if count < 1000:
            return f"{count:.0f}" if not unit and count == int(count) else f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}T"


def human_time(seconds: float) -> str:
    days = seconds / 86_400
    if days >= 2 * 365:
        return f"{days / 365.25:,.0f} years"
    if days >= 2:
        return f"{days:,.0f} days"
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


class _Bar:
    def __init__(self, progress: Progress, task_id: int, unit: str, console: Console) -> None:
        self._progress, self._id, self._unit = progress, task_id, unit
        self._console = console
        self._started = self._printed = time.monotonic()

    def update(self, completed: float, *, total: float | None = None, note: str | None = None) -> None:
        elapsed = time.monotonic() - self._started
        rate = f"{human_count(completed / elapsed)} {self._unit}/s" if self._unit and elapsed > 0.5 else ""
        fields = {"rate": rate} | ({"note": note} if note is not None else {})
        self._progress.update(self._id, completed=completed, total=total, **fields)  # type: ignore[arg-type]
        if not self._console.is_terminal and time.monotonic() - self._printed > 15:
            self._printed = time.monotonic()
            self._print_line(completed, rate, note)

    def _print_line(self, completed: float, rate: str, note: str | None) -> None:
        task = next(task for task in self._progress.tasks if task.id == self._id)
        share = f"{completed / task.total:.0%}" if task.total else human_count(completed)
        left = f"{task.time_remaining:.0f} s left" if task.time_remaining else ""
        parts = [task.description.strip(), share, note or "", rate, left]
        self._console.print("    " + "  ".join(part for part in parts if part), highlight=False, markup=False)


class ConsoleObserver:
    """Draws a run. Without a terminal it prints a line now and then instead of bars."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[rate]}", style="cyan", markup=False),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._depth = 0

    @contextmanager
    def task(self, description: str, *, total: float | None = None, unit: str = "") -> Iterator[Task]:
        task_id = self._progress.add_task(description, total=total, rate="", note="")
        if self._depth == 0:
            self._progress.start()
        self._depth += 1
        try:
            yield _Bar(self._progress, task_id, unit, self.console)
        finally:
            self._depth -= 1
            self._progress.remove_task(task_id)
            if self._depth == 0:
                self._progress.stop()

    def say(self, message: str) -> None:
        self.console.print("    " + message, markup=False)

    def stage_started(self, planned: PlannedStage) -> None:
        self.console.print(f"[bold cyan]▶[/] [bold]{planned.stage.name}[/]  [dim]{planned.why}[/]")

    def stage_done(self, planned: PlannedStage, manifest: Manifest) -> None:
        figures = "  ".join(f"{key} {value:.5g}" for key, value in list(manifest.metrics.items())[:5])
        size = human_size(manifest.size)
        self.console.print(
            f"[bold green]✔[/] [bold]{planned.stage.name}[/]  {human_time(manifest.duration_s)}, {size}"
            f"  [dim]{figures}[/]",
            soft_wrap=True,
        )

    def stage_retried(self, planned: PlannedStage, error: BaseException) -> None:
        self.console.print(f"[yellow]↻[/] {planned.stage.name} failed and is tried again: {error}")
