"""Where the registry and the experiment runs are kept: MLflow on one SQLite file under `.platen/`.

MLflow takes seconds to import, so only writing goes through it; reading is in `reading`. Its telemetry,
its log configuration and its printed addresses are switched off before it loads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platen.core.errors import MissingExtraError, RegistryError, first_line

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Environment that keeps MLflow silent; also for an MLflow server started as a process of its own."""

LOCK_SECONDS = 60.0


def database(project_dir: Path) -> Path:
    """The SQLite file of a project's runs, models, versions and aliases."""
    return project_dir / ".platen" / "mlflow.db"


def files(project_dir: Path) -> Path:
    """Where MLflow keeps files that a user logs to a run; Platen's own are in the artifact store."""
    return project_dir / ".platen" / "mlflow"


def tracking_uri(project_dir: Path) -> str:
    """What `mlflow.set_tracking_uri` or `--backend-store-uri` takes."""
    return f"sqlite:///{database(project_dir).resolve()}"


@contextmanager
def exclusive(project_dir: Path) -> Iterator[None]:
    """One writer at a time, over threads and processes.

    Raises RegistryError when another holds the registry for LOCK_SECONDS.
    """
    from filelock import FileLock, Timeout

    path = database(project_dir).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise RegistryError(
            f"Another process has held the registry ({path}) for {LOCK_SECONDS:.0f} s.",
            hint="wait for it, or stop it; then try again",
        ) from None


@contextmanager
def writing(project_dir: Path, doing: str) -> Iterator[MlflowClient]:
    """An MLflow client with the registry held alone; `doing` names the work in errors.

    Raises RegistryError when the database can't be written, MissingExtraError without MLflow.
    """
    os.environ.update(QUIET)
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError as error:
        raise MissingExtraError("train", "The registry") from error

    uri = tracking_uri(project_dir)
    try:
        with exclusive(project_dir):
            _create(project_dir)
            yield MlflowClient(uri, uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = first_line(error)
        raise RegistryError(
            f"{doing}: {database(project_dir)}: {reason}",
            hint=f"keep a copy of the file, then: mlflow db upgrade {uri}"
            if "out-of-date" in reason
            else "check that the disk has room and the file is a readable MLflow database",
        ) from error


def _create(project_dir: Path) -> None:
    """Make an empty database if there is none: under another name first, because making its tables takes
    seconds, and MLflow can't repair a database whose making was cut short.
    """
    path = database(project_dir)
    if path.is_file():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    files(project_dir).mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    for left in (unfinished, path.with_name(f"{unfinished.name}-journal")):
        left.unlink(missing_ok=True)
    open_store: Any = SqlAlchemyStore  # untyped
    store = open_store(f"sqlite:///{unfinished.resolve()}", files(project_dir).resolve().as_uri())
    store._dispose_engine()
    unfinished.replace(path)
