"""`platen serve`: put a model behind an OpenAI-compatible API and a web page."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from platen.cli.options import HERE, DeviceOption, DTypeOption, ProjectOption, SetOption, open_pipeline
from platen.core.errors import ConfigError, PlatenError

if TYPE_CHECKING:
    from platen.core.phases import Phases
    from platen.core.state.interface import State
    from platen.models.resolve import Location, Resolver
    from platen.pipeline.runner import Pipeline
    from platen.project.file import LoadedService
    from platen.serve.config import ServeConfig
    from platen.serve.server import Started


KeyMode = Literal["required", "optional", "off"]


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
        str | None,
        typer.Option(
            help="torch, openvino, llamacpp, vllm (on GPUs) or an engine of another package; default: auto, "
            "the fastest measured here, else a compiled form, else the bundle."
        ),
    ] = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    kv_memory: Annotated[
        str | None,
        typer.Option(
            "--kv-memory", help="Memory for keys and values: 4GB, 512MB or 25%, a share of what is free."
        ),
    ] = None,
    keys: Annotated[
        KeyMode | None, typer.Option(help="Whether it asks for API keys; see platen keys. Default: off.")
    ] = None,
    generation_config: Annotated[
        Literal["auto", "none"] | None,
        typer.Option(help="none: sample as requests say, not as generation_config.json does. Default: auto."),
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
    from platen.models.resolve import Resolver
    from platen.pipeline.registered import ProjectModels
    from platen.serve.config import ServeConfig

    models = ProjectModels(lambda: open_pipeline(project, overrides))
    resolver = Resolver(models)
    options = {"host": host, "port": port, "grpc_port": grpc_port, "keys": keys, "kv_memory": kv_memory}
    options |= {"generation_config": generation_config, "engine": engine, "device": device, "dtype": dtype}
    changes = {key: value for key, value in options.items() if value is not None}
    check_engine(engine, device)
    phases = start_phases() if explain_start else None
    loaded = _service(project, overrides, needed=model is None or "keys" in changes)
    config = ServeConfig() if loaded is None else _anchored(loaded.service.serve, loaded.directory)
    config = config.model_copy(update=changes)
    state = None if loaded is None else loaded.open_state()
    if gateway and model is not None:
        raise ConfigError(f"--gateway serves no model of its own, and {model} is one", hint="leave out one")
    if model is None and loaded is not None and (gateway or not loaded.trains):
        serve(None, name or loaded.service.name, config, state, phases, resolver, fresh=fresh)
        return
    with phases("find the model") if phases else nullcontext():
        if model is None and config.upstreams and not models.has_released:
            typer.echo("platen: no model has been released yet: only the upstreams are served", err=True)
            location = None
        else:
            location = resolver.locate(model)
    called = models.pipeline.project.name if location is None else location.name
    serve(location, name or called, config, state, phases, resolver, fresh=fresh)


def check_engine(engine: str | None, device: str | None) -> None:
    """Raises ConfigError when there is no such engine, or no such device."""
    from platen.core.devices import check_device_name
    from platen.engines.choose import AUTO
    from platen.engines.registry import engine as engine_named

    if engine not in (None, AUTO):
        engine_named(engine)
    if device is not None:
        check_device_name(device)


def _service(project: Path, overrides: list[str] | None, *, needed: bool) -> LoadedService | None:
    """What the project says of serving; None when there is none here and it is not needed."""
    from platen.project import FILE_NAME

    if project == HERE and not overrides and not needed and not (HERE / FILE_NAME).exists():
        return None
    from platen.project.file import load_service

    return load_service(project, overrides or ())


def _check_fetched(location: Location, config: ServeConfig) -> None:
    """Raises ConfigError where an engine is asked for that would not run what is fetched."""
    from platen.engines.choose import AUTO
    from platen.engines.registry import engine
    from platen.models.resolve import BUNDLE

    wanted = config.wanted_engine
    if location.kind in ("url", "hub") and wanted != AUTO and BUNDLE not in engine(wanted).forms:
        raise ConfigError(
            f"--engine {wanted} can't be had of {location.reference}: what is fetched is served as it is",
            hint=f"platen compile {location.reference}, then serve the folder that it makes",
        )


def _read_ahead(location: Location, config: ServeConfig, resolver: Resolver) -> None:
    """Begin to read the form of a model that will be served, if it is on this machine."""
    from platen.engines.choose import choose
    from platen.models.store import read_ahead

    if location.is_here:
        with suppress(PlatenError):  # opening it says what is wrong
            read_ahead(choose(resolver.resolve(location), config.wanted_engine, config.device).model.path)


def serve_project(pipeline: Pipeline) -> None:
    """Serve what a project has in production."""
    from platen.engines.threads import prepare_process

    prepare_process()
    from platen.models.resolve import Resolver
    from platen.pipeline.registered import ProjectModels

    models = ProjectModels(lambda: pipeline)
    location = Resolver(models).locate(None)
    config = _anchored(pipeline.project.serve, pipeline.directory)
    serve(location, location.name, config, pipeline.state, None, Resolver(models))


def _anchored(config: ServeConfig, here: Path) -> ServeConfig:
    """A project's settings for serving; files and folders are relative to the project file."""
    config = config.located(here)
    models = [
        entry.model_copy(update={"path": str(here / entry.path)}) if (here / entry.path).is_dir() else entry
        for entry in config.models
    ]
    return config.model_copy(update={"models": tuple(models)})


def serve(
    location: Location | None,
    name: str,
    config: ServeConfig,
    state: State | None,
    phases: Phases | None,
    resolver: Resolver,
    *,
    fresh: bool = False,
) -> None:
    """Serve until stopped, having told where, why this engine and, of `phases`, where the time went.

    Without a location only what `config` names is served. The project's state is where the keys are,
    and what the server was told before, unless it starts `fresh`.
    """
    from platen.cli.starting import DownloadBar, announce, announce_gateway, explain
    from platen.core.phases import no_phase

    phase = phases or no_phase
    if location is not None:
        _check_fetched(location, config)
        _read_ahead(location, config, resolver)
    with phase("imports"):
        from platen.serve.access.layer import AccessControl
        from platen.serve.hub.saved_routes import KeptChanges, changes_document
        from platen.serve.server import serve_bundle

    def ready(started: Started) -> None:
        if phases is not None:
            explain(phases)
        if started.kind == "gateway":
            announce_gateway(started, name, config)
            return
        announce(started, name, config)

    changes = None if state is None else changes_document(state, name)
    if fresh and changes is not None:
        changes.delete()
    kept = KeptChanges(changes, shared=state is not None and state.shared)
    access = AccessControl(config, state)
    for warning in [*access.warnings(), *_missing_fallbacks(config, None if location is None else name)]:
        typer.echo(f"platen: warning: {warning}", err=True)
    with DownloadBar() as bar:
        serve_bundle(
            location,
            name=name,
            config=config,
            access=access,
            on_ready=ready,
            resolver=resolver,
            engine=config.wanted_engine,
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
