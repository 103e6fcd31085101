"""`platen new`: start a project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    name: Annotated[str, typer.Argument(help="Folder to make; its last part names the project.")],
) -> None:
    """Start a project: a commented platen.yaml and a little text to run on.

    Example:  platen new hello && platen run hello --serve
    """
    from platen.project.file import new_project

    directory = Path(name)
    for path in new_project(directory, directory.name):
        typer.echo(f"  {path}")
    typer.echo(f"Next:  platen run {name} --serve")
