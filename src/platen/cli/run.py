"""`platen run`: make what is stale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from platen.cli.failures import describe_failure
from platen.cli.options import HERE, ProjectOption, SetOption, looks_like_project, open_pipeline
from platen.core.errors import PlatenError

if TYPE_CHECKING:
    from platen.pipeline.runner import Pipeline, RunReport


def command(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROJECT] [STAGE]...", help="A project folder and stages; default: all, here."
        ),
    ] = None,
    project: ProjectOption = HERE,
    overrides: SetOption = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the released model afterwards.")] = False,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for another run on this project; -1: without end.")
    ] = -1,
) -> None:
    """Make what is stale, from raw text to a registered model.

    Examples:

      platen run                             everything, in this folder

      platen run examples/shakespeare --serve

      platen run train --set train.minutes=1
    """
    names = list(targets or [])
    if names and looks_like_project(names[0]):
        project = Path(names.pop(0))
    pipeline = open_pipeline(project, overrides)
    if serve:
        pipeline.project.require_model()  # said before the work rather than after it
    report = _make(pipeline, tuple(names), wait)
    if serve:
        from platen.cli.serve import serve_project

        serve_project(pipeline)
    elif report.made:
        if pipeline.project.variants:
            typer.echo(f"Next:  platen show compare -p {project}")
        elif "evaluate" in (*report.made, *report.fresh):
            typer.echo(f"Next:  platen serve -p {project}   ·   platen show evaluate -p {project}")
        else:
            typer.echo(f"Next:  platen show {report.made[-1]} -p {project}")


def _make(pipeline: Pipeline, targets: tuple[str, ...], wait: float) -> RunReport:
    from platen.cli.console import ConsoleObserver

    observer = ConsoleObserver()

    def waiting(owner: str) -> None:
        observer.console.print(f"Another run ({owner}) is working on this project; waiting for it.")

    try:
        with pipeline.lock(waiting, wait):
            report = pipeline.run(targets, observer)
    except KeyboardInterrupt:
        typer.echo(
            "\nplaten: stopped; what is finished is kept, and the next run goes on from there", err=True
        )
        raise typer.Exit(130) from None
    if report.fresh and not report.made:
        observer.console.print(f"[green]✔[/] nothing to do: {', '.join(report.fresh)} fresh")
    if report.errors:
        _fail(report)
    return report


def _fail(report: RunReport) -> NoReturn:
    """Tell every failure; the first one decides the exit code."""
    first, *others = report.errors.items()
    for stage, error in others:
        message = str(error) if isinstance(error, PlatenError) else describe_failure(error)[0]
        typer.echo(f"platen: {stage}: {message}", err=True)
    raise first[1]
