"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from platen.pipeline.runner import Pipeline

ProjectOption = Annotated[
    Path, typer.Option("--project", "-p", help="The project: a folder with a platen.yaml, or the file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of platen.yaml; may be repeated."),
]
HERE = Path(".")


def open_pipeline(project: Path, overrides: list[str] | None = None) -> Pipeline:
    """The project's pipeline. Raises ConfigError."""
    from platen.pipeline.runner import Pipeline
    from platen.projectfile import load_project

    loaded = load_project(project, overrides or ())
    return Pipeline(loaded.project, loaded.directory)


def looks_like_project(text: str) -> bool:
    """Whether a positional argument names a project rather than a stage."""
    path = Path(text)
    return path.is_dir() or path.suffix in (".yaml", ".yml") or "/" in text
