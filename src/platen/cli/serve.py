"""`platen serve`: put a model behind an OpenAI-compatible API and a web page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import HERE, ProjectOption, SetOption, open_pipeline, released_forms

if TYPE_CHECKING:
    from platen.pipeline.runner import Pipeline
    from platen.project import ServeConfig


class Engine(StrEnum):
    auto = "auto"
    torch = "torch"
    openvino = "openvino"
    llamacpp = "llamacpp"


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
        Engine, typer.Option(help="auto: the fastest measured here, else a compiled form, else the bundle.")
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

    if model is not None and (Path(model).is_dir() or "/" in model):
        from platen.models.bundle import find_bundle

        folder = find_bundle(model)
        own_name = folder.resolve().name if Path(model).is_dir() else model
        serve([folder], name or own_name, ServeConfig(), host, port, engine)
        return
    pipeline = open_pipeline(project, overrides)
    forms, registered = released_forms(pipeline, model)
    serve(forms, name or registered, pipeline.project.serve, host, port, engine)


def serve_project(pipeline: Pipeline) -> None:
    """Serve what a project has in production."""
    forms, name = released_forms(pipeline)
    serve(forms, name, pipeline.project.serve)


def serve(
    forms: Sequence[Path],
    name: str,
    config: ServeConfig,
    host: str | None = None,
    port: int | None = None,
    engine: Engine = Engine.auto,
) -> None:
    """Serve the form of a model that suits `engine` until stopped, having told where and why this one."""
    from platen.engines.choose import choose
    from platen.serve.server import serve_bundle

    choice = choose(forms, None if engine is Engine.auto else engine.value)

    changes = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    serve_bundle(
        choice.path,
        name=name,
        config=config.model_copy(update=changes),
        on_ready=lambda url, _: _announce(url, name, choice.why),
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
