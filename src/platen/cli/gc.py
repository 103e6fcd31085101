"""`platen gc`: remove what nothing needs."""

from __future__ import annotations

from typing import Annotated

import typer

from platen.cli.options import HERE, ProjectOption, open_pipeline


def command(
    project: ProjectOption = HERE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove artifacts and models of references that nothing needs; says what it will free first.

    Example:  platen gc --dry-run
    """
    from platen.cli.console import human_size
    from platen.pipeline.housekeeping import collect, find_garbage

    pipeline = open_pipeline(project)
    with pipeline.lock(timeout=0):
        garbage = find_garbage(pipeline)
        for manifest in garbage.artifacts:
            typer.echo(
                f"{human_size(manifest.size):>10}  {manifest.ref}  made {manifest.created_at:%Y-%m-%d %H:%M}"
            )
        for path in garbage.leftovers:
            typer.echo(f"            unfinished work: {path}")
        for path in garbage.references:
            typer.echo(f"            model of a reference that no block has: {path}")
        if not (garbage.artifacts or garbage.leftovers or garbage.references):
            typer.echo("nothing to remove")
            return
        typer.echo(
            f"{human_size(garbage.size)} would be freed" if dry_run else f"{human_size(garbage.size)} in all"
        )
        if dry_run:
            return
        if not yes:
            typer.confirm("Remove them?", abort=True)
        collect(pipeline, garbage)
        typer.echo(f"freed {human_size(garbage.size)}")
