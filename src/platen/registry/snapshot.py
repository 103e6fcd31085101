"""The registered versions as they last were, in a document of the project's state: read without MLflow.

Whoever changes the registry or logs to a run through Platen writes it anew. A reader takes it while it is
fresh (`Snapshot._fresh`): of an SQLite file, while the file has not changed since; of a server or another
database, for REMOTE_SECONDS. Else it asks MLflow's client and writes the document.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platen.core.errors import MissingExtraError, RegistryError
from platen.core.state.interface import StateError
from platen.registry.backend import Backend
from platen.registry.version import Version, from_json, version_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

REMOTE_SECONDS = 30.0
_FORMAT = 1
_PAGE = 1000


class Snapshot:
    """What a backend holds, as it is or as it last was."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._document = backend.state.document("registry")

    def versions(self) -> list[Version]:
        """Every version of every model, by name and number, from the document while it is fresh.

        Without MLflow, or while a server does not answer, what was last known is told, with a warning.
        Raises RegistryError, MissingExtraError.
        """
        if self._backend.file is not None and not self._backend.file.is_file():
            return []
        known = self._read()
        if known is not None and self._fresh(known):
            return _versions(known)
        try:
            with self._backend.client("reading the registry") as client:
                return self.renew(client)
        except (RegistryError, MissingExtraError) as error:
            if known is None or (self._backend.file is not None and isinstance(error, RegistryError)):
                raise
            log.warning("%s; going by what was registered %s", error.message, _ago(known))
            return _versions(known)

    def renew(self, client: MlflowClient) -> list[Version]:
        """Ask MLflow, and write the document; where that can't be written, the next reader asks again."""
        # The stamp is taken first: what is written between the two makes the snapshot stale, not wrong.
        stamp = None if self._backend.file is None else file_stamp(self._backend.file)
        versions = sorted(_all_versions(client), key=lambda version: (version.model, version.number))
        content = {
            "format": _FORMAT,
            "source": self._backend.identity,
            "stamp": stamp,
            "taken_at": time.time(),
            "versions": [asdict(version) for version in versions],
        }
        content = json.loads(json.dumps(content, default=str))  # dates
        try:
            self._document.update(lambda _: content)
        except StateError as error:
            log.debug("the registry's snapshot can't be kept: %s", error.message)
        return versions

    def _read(self) -> dict[str, Any] | None:
        """The document if it is about this backend and can be read."""
        try:
            known = self._document.read()
        except StateError:
            return None
        if not isinstance(known, dict) or known.get("format") != _FORMAT:
            return None
        return known if known.get("source") == self._backend.identity else None

    def _fresh(self, known: dict[str, Any]) -> bool:
        if self._backend.file is not None:
            stamp = file_stamp(self._backend.file)
            return stamp is not None and stamp == known["stamp"]
        return bool(0 <= time.time() - known["taken_at"] < REMOTE_SECONDS)


def file_stamp(file: Path) -> list[int] | None:
    """Another list whenever an SQLite file was written; None while a transaction goes on, or was cut short.

    The header's change counter (bytes 24 to 27, SQLite's file format, section 1.3.7) rises with each
    transaction; unlike the time of the last change it stays when the file is copied. With a write-ahead log
    (byte 18 is 2) the log's size and time count too.
    """
    journal, log_file = (file.with_name(f"{file.name}{end}") for end in ("-journal", "-wal"))
    try:
        if journal.exists():
            return None
        with file.open("rb") as opened:
            header = opened.read(100)
        stamp = [int.from_bytes(header[24:28], "big"), file.stat().st_size]
        if len(header) == 100 and header[18] == 2 and log_file.exists():
            stamp += [log_file.stat().st_size, log_file.stat().st_mtime_ns]
    except OSError:
        return None
    return stamp


def _all_versions(client: MlflowClient) -> Iterator[Version]:
    """Aliases first: what one points to is among the versions that are read after it."""
    aliases: dict[tuple[str, int], list[str]] = {}
    for model in _pages(client.search_registered_models):
        for alias, number in model.aliases.items():
            aliases.setdefault((model.name, int(number)), []).append(alias)
    for made in _pages(client.search_model_versions):
        yield version_of(made, aliases.get((made.name, int(made.version)), ()))


def _pages(search: Callable[..., Any]) -> Iterator[Any]:
    token = None
    while True:
        page = search(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _versions(known: dict[str, Any]) -> list[Version]:
    return [from_json(raw) for raw in known["versions"]]


def _ago(known: dict[str, Any]) -> str:
    return f"{max(0.0, time.time() - known['taken_at']) / 60:,.0f} minutes ago"
