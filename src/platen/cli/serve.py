"""`platen serve`: put a model behind an OpenAI-compatible API and a web page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import HERE, ProjectOption, SetOption, open_pipeline, released_forms
from platen.errors import ConfigError

if TYPE_CHECKING:
    from platen.engines.choose import Choice
    from platen.phases import Phases
    from platen.pipeline.runner import Pipeline
    from platen.project import ServeConfig
    from platen.serve.server import Started


class Engine(StrEnum):
    auto = "auto"
    torch = "torch"
    openvino = "openvino"
    llamacpp = "llamacpp"
    vllm = "vllm"


def command(
    model: Annotated[
        str | None,
        typer.Argument(help="A bundle's folder, URL, Hub name or MODEL@VERSION; default: production."),
    ] = None,
    project: ProjectOption = HERE,
    overrides: SetOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 picks a free one.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Also speak the Open Inference Protocol over gRPC.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name in the API.")] = None,
    engine: Annotated[
        Engine,
        typer.Option(
            help="auto: the fastest measured here, else a compiled form, else the bundle; vllm: on GPUs."
        ),
    ] = Engine.auto,
    explain_start: Annotated[bool, typer.Option(help="Show where the time until ready went.")] = False,
) -> None:
    """Serve a model with an OpenAI-compatible API and a web page; Ctrl-C ends it.

    Examples:

      platen serve -p examples/shakespeare

      platen serve ./my-bundle --port 9000

      platen serve shakespeare@1 -p examples/shakespeare

      platen serve ./shakespeare-int8

      platen serve s3://models/shakespeare --explain-start
    """
    from platen.engines.threads import prepare_process

    prepare_process()
    from platen.cli.starting import start_phases
    from platen.engines.choose import Choice
    from platen.models.remote import is_url, name_in
    from platen.project import ServeConfig

    find = _finder(lambda: open_pipeline(project), engine)
    phases = start_phases() if explain_start else None
    if model is not None and (Path(model).is_dir() or "/" in model):
        config = _with_engine(ServeConfig(), engine)
        folder = Path(model)
        called = folder.resolve().name if folder.is_dir() else name_in(model) if is_url(model) else model
        if folder.is_dir():
            choice = _chosen([folder], engine, config)
        elif engine in (Engine.openvino, Engine.llamacpp):
            raise ConfigError(
                f"--engine {engine.value} can't be had of {model}: what is fetched is served as it is",
                hint=f"platen compile {model}, then serve the folder that it makes",
            )
        else:
            choice = Choice(model, "")
        serve(choice, name or called, config, host, port, phases, find, grpc_port)
        return
    with phases("find the model") if phases else nullcontext():
        pipeline = open_pipeline(project, overrides)
        config = _with_engine(_anchored(pipeline), engine)
        forms, registered = released_forms(pipeline, model)
        choice = _chosen(forms, engine, config)
    serve(choice, name or registered, config, host, port, phases, find, grpc_port)


def _chosen(forms: Sequence[Path], engine: Engine, config: ServeConfig) -> Choice:
    """The form of a model that suits what was asked for; vLLM runs the bundle."""
    from platen.engines.choose import Choice, choose

    if config.vllm is not None:
        return Choice(forms[0], "")
    return choose(forms, None if engine in (Engine.auto, Engine.vllm) else engine.value)


def _with_engine(config: ServeConfig, engine: Engine) -> ServeConfig:
    """The configuration for the engine that was asked for; auto leaves it as it is."""
    from platen.project import VllmConfig

    if engine is Engine.torch:
        return config.model_copy(update={"vllm": None})
    if engine is Engine.vllm:
        return config.model_copy(update={"vllm": config.vllm or VllmConfig()})
    return config


def serve_project(pipeline: Pipeline) -> None:
    """Serve what a project has in production."""
    forms, name = released_forms(pipeline)
    config = _anchored(pipeline)
    find = _finder(lambda: pipeline, Engine.auto)
    serve(_chosen(forms, Engine.auto, config), name, config, find=find)


def _finder(pipeline: Callable[[], Pipeline], engine: Engine) -> Callable[[str], Path | str]:
    """Tells where a further model lies: in a folder, at a URL, on the Hub, or registered in the project."""

    def find(reference: str) -> Path | str:
        if Path(reference).is_dir():
            return Path(reference)
        if "/" in reference:
            return reference
        opened = pipeline()
        forms, _ = released_forms(opened, reference)
        return _chosen(forms, engine, _with_engine(opened.project.serve, engine)).path

    return find


def _anchored(pipeline: Pipeline) -> ServeConfig:
    """The project's settings for serving; folders of further models are relative to the project file."""
    config, here = pipeline.project.serve, pipeline.directory
    models = [
        entry.model_copy(update={"path": str(here / entry.path)}) if (here / entry.path).is_dir() else entry
        for entry in config.models
    ]
    return config.model_copy(update={"models": tuple(models)})


def serve(
    choice: Choice,
    name: str,
    config: ServeConfig,
    host: str | None = None,
    port: int | None = None,
    phases: Phases | None = None,
    find: Callable[[str], Path | str] = str,
    grpc_port: int | None = None,
) -> None:
    """Serve until stopped, having told where, why this engine and, of `phases`, where the time went."""
    from platen.cli.starting import DownloadBar, explain
    from platen.models.store import read_ahead
    from platen.phases import no_phase

    phase = phases or no_phase
    if isinstance(choice.path, Path):
        read_ahead(choice.path)
    with phase("imports"):
        from platen.serve.server import serve_bundle

    def ready(started: Started) -> None:
        if phases is not None:
            explain(phases)
        chosen = choice.why and started.kind != "embedding"
        _announce(replace(started, why=choice.why) if chosen else started, name)

    given = {"host": host, "port": port, "grpc_port": grpc_port}
    changes = {key: value for key, value in given.items() if value is not None}
    with DownloadBar() as bar:
        serve_bundle(
            choice.path,
            name=name,
            config=config.model_copy(update=changes),
            on_ready=ready,
            find=find,
            report=bar.update,
            phase=phase,
        )


def _announce(started: Started, name: str) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    url = started.url
    console.print(f"\n[bold]{name}[/] answers at [bold cyan]{url}[/]\n")
    # Plain lines, whatever the terminal's width: they are there to be copied.
    console.print(f"  engine    {started.why}", markup=False)
    if started.grpc_address is not None:
        console.print(f"  gRPC      {started.grpc_address}  (Open Inference Protocol)", markup=False)
    if started.kind == "embedding":
        console.print(f"  API       {url}/v1  (OpenAI: /models, /embeddings)", markup=False)
        route, body = "embeddings", json.dumps({"model": name, "input": "Once upon a time"})
    else:
        console.print(f"  page      {url}", markup=False)
        console.print(
            f"  API       {url}/v1  (OpenAI: /models, /completions, /chat/completions)", markup=False
        )
        console.print(f"  terminal  platen chat --url {url}", markup=False)
        route = "completions"
        body = json.dumps({"model": name, "prompt": "Once upon a time", "max_tokens": 60})
    console.print(
        f"  try       curl {url}/v1/{route} -H 'content-type: application/json' -d '{body}'\n",
        markup=False,
    )
    console.print("Ctrl-C ends it.")
