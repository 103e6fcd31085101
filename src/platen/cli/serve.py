"""`platen serve`: put a model behind an OpenAI-compatible API and a web page."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from platen.cli.options import HERE, ProjectOption, SetOption, open_pipeline, released_bundle

if TYPE_CHECKING:
    from platen.pipeline.runner import Pipeline
    from platen.project import ServeConfig


KeyMode = Literal["required", "optional", "off"]


class Engine(StrEnum):
    auto = "auto"
    torch = "torch"


def command(
    model: Annotated[
        str | None,
        typer.Argument(help="A bundle's folder, Hub name or MODEL@VERSION; default: production."),
    ] = None,
    project: ProjectOption = HERE,
    overrides: SetOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 picks a free one.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name in the API.")] = None,
    engine: Annotated[
        Engine, typer.Option(help="auto: the compiled form if there is one; torch: always the bundle.")
    ] = Engine.auto,
    keys: Annotated[
        KeyMode | None, typer.Option(help="Whether it asks for API keys; see platen keys. Default: off.")
    ] = None,
) -> None:
    """Serve a model with an OpenAI-compatible API and a web page; Ctrl-C ends it.

    Examples:

      platen serve -p examples/shakespeare

      platen serve ./my-bundle --port 9000

      platen serve shakespeare@1 -p examples/shakespeare

      platen serve ./shakespeare-int8

      platen serve -p examples/shakespeare --host 0.0.0.0 --keys required
    """
    from platen.project import ServeConfig
    from platen.projectfile import load_project

    def find(reference: str) -> Path | str:
        """Where a model lies that a running server is told to answer with."""
        if Path(reference).is_dir():
            return Path(reference)
        if "/" in reference:
            return reference
        return released_bundle(open_pipeline(project), reference, compiled=engine is Engine.auto)[0]

    options = {"host": host, "port": port, "keys": keys}
    changes = {key: value for key, value in options.items() if value is not None}
    if model is not None and (Path(model).is_dir() or "/" in model):
        path: Path | str = Path(model) if Path(model).is_dir() else model
        name = name or (path.resolve().name if isinstance(path, Path) else path)
        config = ServeConfig().model_copy(update=changes)
        directory = None if config.keys == "off" else load_project(project).directory
        serve(path, name, config, directory, find)
        return
    pipeline = open_pipeline(project, overrides)
    path, registered = released_bundle(pipeline, model, compiled=engine is Engine.auto)
    config = pipeline.project.serve.model_copy(update=changes)
    serve(path, name or registered, config, pipeline.directory, find)


def serve_project(pipeline: Pipeline) -> None:
    """Serve what a project has in production."""
    path, name = released_bundle(pipeline, compiled=True)
    serve(path, name, pipeline.project.serve, pipeline.directory)


def serve(
    path: Path | str,
    name: str,
    config: ServeConfig,
    project_dir: Path | None,
    find: Callable[[str], Path | str] = str,
) -> None:
    """Serve until stopped, having told where. The project's folder is where the keys are."""
    from platen.serve.access import AccessControl
    from platen.serve.server import serve_bundle

    access = AccessControl(config, project_dir)
    for warning in access.warnings():
        typer.echo(f"platen: warning: {warning}", err=True)
    serve_bundle(
        path,
        name=name,
        config=config,
        access=access,
        on_ready=lambda url, why: _announce(url, name, why),
        find=find,
    )


def _announce(url: str, name: str, why: str) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n[bold]{name}[/] answers at [bold cyan]{url}[/]\n")
    # Plain lines, whatever the terminal's width: they are there to be copied.
    console.print(f"  engine    {why}", markup=False)
    console.print(f"  page      {url}", markup=False)
    console.print(f"  API       {url}/v1  (OpenAI: /models, /completions, /chat/completions)", markup=False)
    console.print(f"  terminal  platen chat --url {url}", markup=False)
    body = json.dumps({"model": name, "prompt": "Once upon a time", "max_tokens": 60})
    console.print(
        f"  try       curl {url}/v1/completions -H 'content-type: application/json' -d '{body}'\n",
        markup=False,
    )
    console.print("Ctrl-C ends it.")
