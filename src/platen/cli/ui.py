"""`platen ui`: Dagster's and MLflow's own pages over one project."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import HERE, open_pipeline
from platen.core.errors import MissingExtraError, PlatenError

if TYPE_CHECKING:
    from platen.pipeline.runner import Pipeline


def command(
    project: Annotated[Path, typer.Argument(help="A folder with a platen.yaml, or the file.")] = HERE,
    dagster_port: Annotated[int, typer.Option(help="Port of Dagster's page.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's page.")] = 5000,
) -> None:
    """Open Dagster's and MLflow's pages over this project; Ctrl-C ends both.

    Dagster shows the stages, runs them and follows the project's schedule; MLflow shows curves and
    registered versions. Both listen on 127.0.0.1 only.

    Example:  platen ui examples/shakespeare
    """
    for package in ("dagster_webserver", "mlflow"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("ops", "platen ui")
    pipeline = open_pipeline(project)
    commands = _commands(pipeline, dagster_port, mlflow_port)
    environment = _environment(pipeline, project)
    children = {name: subprocess.Popen(line, env=environment) for name, line in commands.items()}
    backend = pipeline.registry.backend
    mlflow = backend.shown if backend.is_server else f"http://127.0.0.1:{mlflow_port}"
    typer.echo(f"Dagster  http://127.0.0.1:{dagster_port}\nMLflow   {mlflow}")
    typer.echo("Ctrl-C ends both.")
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        while all(child.poll() is None for child in children.values()):
            time.sleep(0.3)
        ended = next(name for name, child in children.items() if child.poll() is not None)
        raise PlatenError(f"{ended} ended by itself", hint="see its message above; is its port in use?")
    except KeyboardInterrupt:
        typer.echo("")
    finally:
        _stop(list(children.values()))


def _commands(pipeline: Pipeline, dagster_port: int, mlflow_port: int) -> dict[str, list[str]]:
    python = [sys.executable, "-m"]
    local = ["--host", "127.0.0.1", "--port"]
    definitions = ["-m", "platen.pipeline.definitions"]
    quiet = ["--log-level", "warning"]
    commands = {"Dagster": [*python, "dagster", "dev", *definitions, *local, str(dagster_port), *quiet]}
    if not pipeline.registry.backend.is_server:
        commands["MLflow"] = [*python, "mlflow", "server", "--workers", "1", *local, str(mlflow_port)]
    return commands


def _environment(pipeline: Pipeline, project: Path) -> dict[str, str]:
    from platen.pipeline.orchestration import home
    from platen.registry.backend import QUIET

    return os.environ | {
        "PLATEN_PROJECT": str(project.resolve()),
        "DAGSTER_HOME": str(home(pipeline).resolve()),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        # Not on the command line, where anyone on the machine could read its password.
        "MLFLOW_BACKEND_STORE_URI": pipeline.registry.backend.url,
        **QUIET,
    }


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        child.send_signal(signal.SIGINT)
    for child in children:
        try:
            child.wait(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
