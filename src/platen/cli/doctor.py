"""`platen doctor`: what this machine and installation have, lack, and how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from platen.cli.options import HERE


def command(
    project: Annotated[Path, typer.Argument(help="A project to look at too.")] = HERE,
) -> None:
    """Look at this machine and installation; say what is missing and the fix.

    Exits 1 when something fails.

    Example:  platen doctor examples/shakespeare
    """
    from rich.console import Console
    from rich.table import Table

    from platen.doctor.checks import examine

    checks = examine(project if (project / "platen.yaml").is_file() or project != HERE else None)
    marks = {"ok": "[green]✔[/]", "warn": "[yellow]![/]", "fail": "[red]✘[/]"}
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        fix = f"\n→ {check.fix}" if check.fix else ""
        table.add_row(marks[check.status], check.name, (check.found + fix).replace("[", r"\["))
    Console(highlight=False).print(table)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)
