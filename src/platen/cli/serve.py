"""`platen serve`: put a model behind an OpenAI-compatible API and a web page."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import HERE, ProjectOption, SetOption, open_pipeline, released_bundle

if TYPE_CHECKING:
    from platen.pipeline.runner import Pipeline
    from platen.project import ServeConfig


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
) -> None:
    """Serve a model with an OpenAI-compatible API and a web page; Ctrl-C ends it.

    Examples:

      platen serve -p examples/shakespeare

      platen serve ./my-bundle --port 9000

      platen serve shakespeare@1 -p examples/shakespeare

      platen serve ./shakespeare-int8
    """
    from platen.project import ServeConfig

    def find(reference: str) -> Path | str:
        """Where a model lies that a running server is told to answer with."""
        if Path(reference).is_dir():
            return Path(reference)
        if "/" in reference:
            return reference
        return released_bundle(open_pipeline(project), reference, compiled=engine is Engine.auto)[0]

    if model is not None and Path(model).is_dir():
        serve(Path(model), name or Path(model).resolve().name, ServeConfig(), host, port, find)
        return
    if model is not None and "/" in model:
        serve(model, name or model, ServeConfig(), host, port, find)
        return
    pipeline = open_pipeline(project, overrides)
    path, registered = released_bundle(pipeline, model, compiled=engine is Engine.auto)
    config = pipeline.project.serve.located(pipeline.directory)
    serve(path, name or registered, config, host, port, find)


def serve_project(pipeline: Pipeline) -> None:
    """Serve what a project has in production."""
    path, name = released_bundle(pipeline, compiled=True)
    serve(path, name, pipeline.project.serve.located(pipeline.directory))


def serve(
    path: Path | str,
    name: str,
    config: ServeConfig,
    host: str | None = None,
    port: int | None = None,
    find: Callable[[str], Path | str] = str,
) -> None:
    """Serve until stopped, having told where."""
    from platen.serve.server import serve_bundle

    changes = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    serve_bundle(
        path,
        name=name,
        config=config.model_copy(update=changes),
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
