"""`platen data`: commands around a project's data."""

from __future__ import annotations

import typer

from platen.cli import data_diff, data_label

app = typer.Typer(no_args_is_help=True)


@app.callback()
def data() -> None:
    """Work on a project's data: label it, compare versions."""


app.command()(data_label.label)
app.command()(data_label.labels)
app.command()(data_diff.diff)
