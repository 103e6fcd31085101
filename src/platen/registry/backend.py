"""Where a project's runs and registered versions are kept: an MLflow server or database.

By default that is one SQLite file under `.platen`. MLflow takes seconds to import, so `snapshot` answers most
questions without it. Its telemetry, its log configuration and its printed addresses are switched off before
it loads.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from platen.core.errors import MissingExtraError, RegistryError, first_line
from platen.core.files import sync
from platen.core.state.embedded import STATE_FOLDER, EmbeddedState
from platen.core.state.interface import LockHeldError, State
from platen.core.urls import shown, without_secrets

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Environment that keeps MLflow silent; also for an MLflow server started as a process of its own."""
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""How long a server is waited for, unless the environment says otherwise: MLflow waits minutes."""
LOCK_SECONDS = 60.0
CONNECT_SECONDS = 10
_SQLITE = "sqlite:///"


class Backend:
    """MLflow's store at `url`; None is the SQLite file under `.platen` of the project.

    `file` is the SQLite file, where it is one; `files` is where MLflow keeps what a user logs to a run, where
    that is for us to say: Platen's own files are in the artifact store. `shown` is the URL for messages,
    `identity` tells this backend from another, wherever the project's folder lies.
    """

    def __init__(self, project_dir: Path, url: str | None = None, state: State | None = None) -> None:
        """`state` has the lock that makes changes one after the other. Raises RegistryError."""
        self.state = state or EmbeddedState(project_dir)
        folder = project_dir / STATE_FOLDER
        self.files = folder / "mlflow" if url is None else None
        self.url = (
            f"{_SQLITE}{(folder / 'mlflow.db').resolve()}" if url is None else _anchored(url, project_dir)
        )
        self.file = Path(self.url.removeprefix(_SQLITE)) if self.url.startswith(_SQLITE) else None
        self.shown = shown(self.url) if self.file is None else str(self.file)
        self.identity = STATE_FOLDER if url is None else self.shown

    @property
    def is_server(self) -> bool:
        """Whether an MLflow server answers there, with a page of its own."""
        return self.url.startswith(("http://", "https://"))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One writer at a time, over threads and processes that share the project's state.

        Raises RegistryError when another holds the registry for LOCK_SECONDS.
        """
        try:
            with self.state.lock("mlflow", timeout=LOCK_SECONDS):
                yield
        except LockHeldError as error:
            raise RegistryError(
                f"{error.owner} has held the registry ({self.shown}) for {LOCK_SECONDS:.0f} s.",
                hint="wait for it, or stop it; then try again",
            ) from None

    @contextmanager
    def writing(self, doing: str) -> Iterator[MlflowClient]:
        """An MLflow client with the registry held alone; `doing` names the work in errors.

        Raises RegistryError when MLflow refuses, MissingExtraError without MLflow.
        """
        with self._errors(doing), self.exclusive():
            from mlflow.tracking import MlflowClient

            self._create()
            self._reach()
            yield MlflowClient(self.url, self.url)

    @contextmanager
    def client(self, doing: str) -> Iterator[MlflowClient]:
        """An MLflow client; raises as `writing`."""
        with self._errors(doing):
            from mlflow.tracking import MlflowClient

            self._reach()
            yield MlflowClient(self.url, self.url)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """MLflow's errors become RegistryErrors; MLflow is imported, silenced before."""
        os.environ.update(QUIET)
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow.exceptions import MlflowException
            from sqlalchemy.exc import SQLAlchemyError
        except ModuleNotFoundError as error:
            raise MissingExtraError("train", "The registry") from error
        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError, ModuleNotFoundError) as error:
            reason = without_secrets(first_line(error), self.url)
            raise RegistryError(f"{doing}: {self.shown}: {reason}", hint=self._hint(reason)) from None

    def _reach(self) -> None:
        """Connect once to a database that is not a file: MLflow tries for minutes before it says why not."""
        if self.file is not None or self.is_server:
            return
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        timeout = {"connect_timeout": CONNECT_SECONDS} if self.url.startswith("postgresql+psycopg:") else {}
        create_engine(self.url, poolclass=NullPool, connect_args=timeout).connect().close()

    def _hint(self, reason: str) -> str:
        if "out-of-date" in reason:
            url = self.shown if self.file is None else self.url
            return f"keep a copy of the database, then: mlflow db upgrade {url}"
        if self.file is None:
            return "is the address right, does the server run, and may this user write there?"
        return "check that the disk has room and the file is a readable MLflow database"

    def _create(self) -> None:
        """Make an empty SQLite file if there is none: a copy of one that was made under another name, because
        making its tables takes seconds, and MLflow can't repair a database whose making was cut short.
        """
        if self.file is None or self.file.is_file():
            return
        from mlflow.tracking import MlflowClient

        self.file.parent.mkdir(parents=True, exist_ok=True)
        unfinished, whole = (self.file.with_name(f"{self.file.name}.{end}") for end in ("tmp", "new"))
        for left in (unfinished, unfinished.with_name(f"{unfinished.name}-journal"), whole):
            left.unlink(missing_ok=True)
        making = f"{_SQLITE}{unfinished}"
        MlflowClient(making, making).search_experiments(max_results=1)
        shutil.copyfile(unfinished, whole)  # MLflow keeps the other one open
        sync(whole)
        whole.replace(self.file)
        unfinished.unlink()


def _anchored(url: str, project_dir: Path) -> str:
    """The URL as MLflow takes it: a relative SQLite file is the project's, PostgreSQL's driver is psycopg."""
    scheme, colon, rest = url.partition("://")
    if not colon:
        raise RegistryError(
            f"registry: {url!r} is no URL",
            hint="give an MLflow server, https://…, or database, postgresql://…",
        )
    if scheme == "sqlite":
        return f"{_SQLITE}{(project_dir / rest.removeprefix('/')).resolve()}"
    return f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else url
