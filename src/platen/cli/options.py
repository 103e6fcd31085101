"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.errors import ArtifactError

if TYPE_CHECKING:
    from platen.pipeline.runner import Pipeline

ProjectOption = Annotated[
    Path, typer.Option("--project", "-p", help="The project: a folder with a platen.yaml, or the file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of platen.yaml; may be repeated."),
]
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens at most.")]
TemperatureOption = Annotated[float, typer.Option(min=0, max=2, help="0 always takes the likeliest token.")]
TopPOption = Annotated[float, typer.Option("--top-p", min=0.001, max=1, help="Nucleus sampling; 1 is off.")]
TopKOption = Annotated[int, typer.Option("--top-k", min=0, help="Only the k likeliest tokens; 0 is off.")]
SeedOption = Annotated[int | None, typer.Option(help="The same seed gives the same text.")]
HERE = Path(".")
KEY_VARIABLE = "PLATEN_API_KEY"
"""Environment variable with the key for a server that asks for one."""


def open_pipeline(project: Path, overrides: list[str] | None = None) -> Pipeline:
    """The project's pipeline. Raises ConfigError."""
    from platen.pipeline.runner import Pipeline
    from platen.projectfile import load_project

    return Pipeline(load_project(project, overrides or ()))


def looks_like_project(text: str) -> bool:
    """Whether a positional argument names a project rather than a stage."""
    path = Path(text)
    return path.is_dir() or path.suffix in (".yaml", ".yml") or "/" in text


def released_bundle(
    pipeline: Pipeline, which: str | None = None, *, compiled: bool = False
) -> tuple[Path, str]:
    """Where the bundle of a registered version lies, and its model's name.

    With `compiled`, where its newest compiled form lies, if it has one. `which` is MODEL@NUMBER, MODEL@ALIAS
    or MODEL; None is the project's own model in production. Raises RegistryError when there is no such
    version, ArtifactError when its files are gone.
    """
    from platen.compress.compile import compiled_form
    from platen.registry import reading

    own = pipeline.project.register_as.model or pipeline.project.name
    model, _, version = (which or own).partition("@")
    found = reading.get(pipeline.directory, model, version or "production")
    if compiled and found.artifact and (form := compiled_form(pipeline.store, found.artifact)):
        return form.path, found.model
    name, _, fingerprint = (found.artifact or "").partition("/")
    artifact = pipeline.store.find(name, fingerprint) if fingerprint else None
    if artifact is not None:
        return artifact.path, found.model
    if Path(found.source).is_dir():
        return Path(found.source), found.model
    raise ArtifactError(
        f"the bundle of {found.name} is gone: {found.artifact or found.source}", hint="platen run"
    )
