"""`platen status`: which stages are fresh, which are stale and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from platen.cli.options import HERE, SetOption, open_pipeline


def command(
    project: Annotated[Path, typer.Argument(help="A folder with a platen.yaml, or the file.")] = HERE,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show each stage: fresh, or stale and why.

    Example:  platen status examples/shakespeare
    """
    planned = open_pipeline(project, overrides).plan()
    if as_json:
        rows = [
            {"stage": e.stage.name, "fingerprint": e.fingerprint, "fresh": e.fresh, "why": e.why}
            for e in planned
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    from platen.cli.console import human_size, human_time

    table = Table(box=None, pad_edge=False)
    for heading in ("stage", "state", "artifact", "size", "took", "why"):
        table.add_column(heading, overflow="fold")
    for entry in planned:
        made = entry.made
        table.add_row(
            entry.stage.name,
            "[green]fresh[/]" if made else "[yellow]stale[/]",
            entry.fingerprint if made else "",
            human_size(made.size) if made else "",
            human_time(made.duration_s) if made else "",
            entry.why.replace("[", r"\["),
        )
    Console().print(table)
