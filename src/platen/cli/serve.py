"""`platen serve`: put a model behind an OpenAI-compatible API and a web page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from platen.cli.options import HERE, ProjectOption, SetOption, open_pipeline, released_forms
from platen.core.errors import ConfigError

if TYPE_CHECKING:
    from platen.core.phases import Phases
    from platen.engines.choose import Choice
    from platen.pipeline.runner import Pipeline
    from platen.project.file import LoadedService
    from platen.serve.config import ServeConfig
    from platen.serve.server import Started


KeyMode = Literal["required", "optional", "off"]


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
    kv_memory: Annotated[
        str | None,
        typer.Option(
            "--kv-memory", help="Memory for keys and values: 4GB, 512MB or 25%, a share of what is free."
        ),
    ] = None,
    keys: Annotated[
        KeyMode | None, typer.Option(help="Whether it asks for API keys; see platen keys. Default: off.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what the server was told by platen traffic before.")
    ] = False,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="Only the project's upstreams, no model in production.")
    ] = False,
    explain_start: Annotated[bool, typer.Option(help="Show where the time until ready went.")] = False,
) -> None:
    """Serve a model with an OpenAI-compatible API and a web page; Ctrl-C ends it.

    The project's `serve` section holds for any model, a folder's too: with upstreams in it the server is a
    gateway as well. It is nothing else with --gateway, while the project has released no model, and where
    its file has only `name` and `serve`.

    Examples:

      platen serve -p examples/shakespeare

      platen serve ./my-bundle --port 9000

      platen serve shakespeare@1 -p examples/shakespeare

      platen serve ./shakespeare-int8

      platen serve -p examples/shakespeare --host 0.0.0.0 --keys required

      platen serve s3://models/shakespeare --explain-start

      platen serve -p my-gateway --gateway
    """
    from platen.engines.threads import prepare_process

    prepare_process()
    from platen.cli.starting import start_phases
    from platen.serve.config import ServeConfig

    find = _finder(lambda: open_pipeline(project), engine)
    options = {"host": host, "port": port, "grpc_port": grpc_port, "keys": keys, "kv_memory": kv_memory}
    changes = {key: value for key, value in options.items() if value is not None}
    phases = start_phases() if explain_start else None
    loaded = _service(project, overrides, needed=model is None or "keys" in changes)
    config = ServeConfig() if loaded is None else _anchored(loaded.service.serve, loaded.directory)
    config = _with_engine(config.model_copy(update=changes), engine)
    directory = None if loaded is None else loaded.directory
    if gateway and model is not None:
        raise ConfigError(f"--gateway serves no model of its own, and {model} is one", hint="leave out one")
    if model is not None and (Path(model).is_dir() or "/" in model):
        choice, called = _elsewhere(model, engine, config)
        serve(choice, name or called, config, directory, phases, find, fresh=fresh)
    elif loaded is not None and (gateway or not loaded.trains):
        serve(None, name or loaded.service.name, config, directory, phases, find, fresh=fresh)
    else:
        with phases("find the model") if phases else nullcontext():
            pipeline = open_pipeline(project, overrides)
            if model is None and config.upstreams and not _has_released(pipeline):
                typer.echo("platen: no model has been released yet: only the upstreams are served", err=True)
                serve(None, name or pipeline.project.name, config, directory, phases, find, fresh=fresh)
                return
            forms, registered = released_forms(pipeline, model)
            choice = _chosen(forms, engine, config)
        serve(choice, name or registered, config, directory, phases, find, fresh=fresh)


def _service(project: Path, overrides: list[str] | None, *, needed: bool) -> LoadedService | None:
    """What the project says of serving; None when there is none here and it is not needed."""
    from platen.project.file import FILE_NAME, load_service

    if project == HERE and not overrides and not needed and not (HERE / FILE_NAME).exists():
        return None
    return load_service(project, overrides or ())


def _elsewhere(model: str, engine: Engine, config: ServeConfig) -> tuple[Choice, str]:
    """A model by its folder, URL or Hub name, and what it is called."""
    from platen.engines.choose import Choice
    from platen.models.remote import is_url, name_in

    folder = Path(model)
    if folder.is_dir():
        return _chosen([folder], engine, config), folder.resolve().name
    if engine in (Engine.openvino, Engine.llamacpp):
        raise ConfigError(
            f"--engine {engine.value} can't be had of {model}: what is fetched is served as it is",
            hint=f"platen compile {model}, then serve the folder that it makes",
        )
    return Choice(model, ""), name_in(model) if is_url(model) else model


def _has_released(pipeline: Pipeline) -> bool:
    from platen.registry.reading import versions

    return bool(versions(pipeline.directory, pipeline.project.register_as.model or pipeline.project.name))


def _chosen(forms: Sequence[Path], engine: Engine, config: ServeConfig) -> Choice:
    """The form of a model that suits what was asked for; vLLM runs the bundle."""
    from platen.engines.choose import Choice, choose

    if config.vllm is not None:
        return Choice(forms[0], "")
    return choose(forms, None if engine in (Engine.auto, Engine.vllm) else engine.value)


def _with_engine(config: ServeConfig, engine: Engine) -> ServeConfig:
    """The configuration for the engine that was asked for; auto leaves it as it is."""
    from platen.engines.vllm.config import VllmConfig

    if engine is Engine.torch:
        return config.model_copy(update={"vllm": None})
    if engine is Engine.vllm:
        return config.model_copy(update={"vllm": config.vllm or VllmConfig()})
    return config


def serve_project(pipeline: Pipeline) -> None:
    """Serve what a project has in production."""
    from platen.engines.threads import prepare_process

    prepare_process()
    forms, name = released_forms(pipeline)
    config = _anchored(pipeline.project.serve, pipeline.directory)
    find = _finder(lambda: pipeline, Engine.auto)
    serve(_chosen(forms, Engine.auto, config), name, config, pipeline.directory, find=find)


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


def _anchored(config: ServeConfig, here: Path) -> ServeConfig:
    """A project's settings for serving; files and folders are relative to the project file."""
    config = config.located(here)
    models = [
        entry.model_copy(update={"path": str(here / entry.path)}) if (here / entry.path).is_dir() else entry
        for entry in config.models
    ]
    return config.model_copy(update={"models": tuple(models)})


def serve(
    choice: Choice | None,
    name: str,
    config: ServeConfig,
    project_dir: Path | None,
    phases: Phases | None = None,
    find: Callable[[str], Path | str] = str,
    *,
    fresh: bool = False,
) -> None:
    """Serve until stopped, having told where, why this engine and, of `phases`, where the time went.

    Without a choice only what `config` names is served. The project's folder is where the keys are,
    and what the server was told before, unless it starts `fresh`.
    """
    from platen.cli.starting import DownloadBar, announce, announce_gateway, explain
    from platen.core.phases import no_phase
    from platen.models.store import read_ahead

    phase = phases or no_phase
    if choice is not None and isinstance(choice.path, Path):
        read_ahead(choice.path)
    with phase("imports"):
        from platen.serve.access.layer import AccessControl
        from platen.serve.hub.saved_routes import KeptChanges, changes_file
        from platen.serve.server import serve_bundle

    def ready(started: Started) -> None:
        if phases is not None:
            explain(phases)
        if started.kind == "gateway":
            announce_gateway(started, name, config)
            return
        chosen = choice is not None and choice.why and started.kind != "embedding"
        announce(replace(started, why=choice.why) if choice and chosen else started, name, config)

    changes = None if project_dir is None else changes_file(project_dir, name)
    if fresh and changes is not None:
        changes.unlink(missing_ok=True)
    kept = KeptChanges(changes)
    access = AccessControl(config, project_dir)
    for warning in [*access.warnings(), *_missing_fallbacks(config, None if choice is None else name)]:
        typer.echo(f"platen: warning: {warning}", err=True)
    with DownloadBar() as bar:
        serve_bundle(
            None if choice is None else choice.path,
            name=name,
            config=config,
            access=access,
            on_ready=ready,
            find=find,
            report=bar.update,
            phase=phase,
            kept=kept,
        )


def _missing_fallbacks(config: ServeConfig, model: str | None) -> list[str]:
    """What to warn of: fallbacks that no upstream and no model of this server answers to."""
    known = {model} | {one.name for one in config.upstreams} | {entry.name for entry in config.models}
    return [
        f"the upstream {upstream.name} falls back to {fallback}, which this server does not have"
        + ("" if model is None else f" (--name {fallback} would call its model that)")
        for upstream in config.upstreams
        for fallback in upstream.fallbacks
        if fallback not in known
    ]
