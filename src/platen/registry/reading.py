"""Answers what the registry holds in milliseconds, without importing MLflow.

It only selects from MLflow's own SQLite file, through the standard library, so there is no second record
that could disagree with it: serving starts by asking which version is in production. The few columns that
it relies on are checked against MLflow's answers in the tests.
"""

from __future__ import annotations

import getpass
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platen.core.errors import RegistryError
from platen.registry.backend import database

ALIASES = ("candidate", "production")
FINGERPRINT, ARTIFACT, METRICS, TEXT, PROMOTIONS = (
    f"platen.{tag}" for tag in ("fingerprint", "artifact", "metrics", "evaluated_text", "promotions")
)
PARENT_CHECKPOINT, PARENT_RUN = "platen.parent_checkpoint", "mlflow.parentRunId"


@dataclass(frozen=True)
class Promotion:
    """One time that a version was given an alias, and on what grounds."""

    alias: str
    at: datetime
    by: str
    gate: tuple[str, ...]
    override_reason: str | None
    replaced: int | None
    """The version that had the alias before."""


@dataclass(frozen=True)
class Version:
    """A registered model version.

    `fingerprint` is the bundle's, `artifact` its `name/fingerprint` in the store (None for a model from
    elsewhere), `source` where it was when registered.
    """

    model: str
    number: int
    fingerprint: str
    artifact: str | None
    source: str
    run_id: str | None
    created_at: datetime
    aliases: tuple[str, ...]
    metrics: Mapping[str, float]
    evaluated_text: str | None
    """SHA-256 of the text that the metrics were measured on."""
    promotions: tuple[Promotion, ...]
    tags: Mapping[str, str]

    @property
    def name(self) -> str:
        """`model@number`, as the command line takes it."""
        return f"{self.model}@{self.number}"


@dataclass(frozen=True)
class Ancestor:
    """One step of a version's descent: a training run and the checkpoint it made."""

    run_id: str | None
    run_name: str | None
    fingerprint: str


def versions(project_dir: Path, model: str | None = None) -> list[Version]:
    """Every live or past version, oldest first; of one model, or of all. Empty before the first one."""
    rows = _query(
        project_dir,
        "SELECT name, version, creation_time, source, run_id FROM model_versions "
        "WHERE current_stage != 'Deleted_Internal' AND (:model IS NULL OR name = :model) "
        "ORDER BY name, version",
        {"model": model},
    )
    tags: dict[tuple[str, int], dict[str, str]] = {}
    for name, number, key, value in _query(
        project_dir, "SELECT name, version, key, value FROM model_version_tags", {}
    ):
        tags.setdefault((name, number), {})[key] = value
    aliases: dict[tuple[str, int], list[str]] = {}
    for name, number, alias in _query(
        project_dir, "SELECT name, version, alias FROM registered_model_aliases ORDER BY alias", {}
    ):
        aliases.setdefault((name, number), []).append(alias)
    return [_version(row, tags.get(row[:2], {}), tuple(aliases.get(row[:2], ()))) for row in rows]


def get(project_dir: Path, model: str, which: str | int) -> Version:
    """A version by number or alias. Raises RegistryError, naming what there is."""
    known = versions(project_dir, model)
    number = int(which) if str(which).isdecimal() else None
    for version in known:
        if version.number == number or which in version.aliases:
            return version
    there = [f"{v.number} ({', '.join(v.aliases)})" if v.aliases else str(v.number) for v in known]
    if not known:
        models = sorted({version.model for version in versions(project_dir)})
        raise RegistryError(
            f"No model called {model!r} is registered.",
            hint=f"registered: {', '.join(models)}" if models else "platen run registers one",
        )
    raise RegistryError(
        f"Model {model!r} has no version or alias {str(which)!r}.", hint=f"versions: {', '.join(there)}"
    )


def production(project_dir: Path, model: str) -> Version | None:
    """The version that is in production, or None."""
    return next((v for v in versions(project_dir, model) if "production" in v.aliases), None)


def production_metrics(project_dir: Path, model: str) -> Mapping[str, float] | None:
    """The evaluation metrics of the version in production, or None when there is none."""
    version = production(project_dir, model)
    return None if version is None else version.metrics


def find_run(project_dir: Path, fingerprint: str) -> str | None:
    """The id of the latest run that made, or is making, the artifact with this fingerprint."""
    rows = _query(
        project_dir,
        "SELECT t.run_uuid FROM tags t JOIN runs r ON r.run_uuid = t.run_uuid "
        "WHERE t.key = :key AND t.value = :value AND r.lifecycle_stage = 'active' "
        "ORDER BY r.start_time DESC LIMIT 1",
        {"key": FINGERPRINT, "value": fingerprint},
    )
    return str(rows[0][0]) if rows else None


def lineage(project_dir: Path, version: Version) -> list[Ancestor]:
    """From the version's own training run back to the first checkpoint it descends from."""
    chain, fingerprint, run_id = list[Ancestor](), version.fingerprint, version.run_id
    seen: set[str] = set()
    while fingerprint not in seen:
        seen.add(fingerprint)
        tags = _run_tags(project_dir, run_id) if run_id else {}
        chain.append(Ancestor(run_id, tags.get("mlflow.runName"), fingerprint))
        if PARENT_CHECKPOINT not in tags:
            break
        fingerprint = tags[PARENT_CHECKPOINT]
        run_id = tags.get(PARENT_RUN)
    return chain


def promotion_json(promotions: tuple[Promotion, ...]) -> str:
    """Promotions as the tag keeps them."""
    return json.dumps([{**vars(p), "at": p.at.isoformat()} for p in promotions])


def current_user() -> str:
    """The account that a change is recorded under."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's numeric user without a passwd entry
        return "unknown"


def _run_tags(project_dir: Path, run_id: str) -> dict[str, str]:
    return dict(_query(project_dir, "SELECT key, value FROM tags WHERE run_uuid = :run", {"run": run_id}))


def _version(row: tuple[Any, ...], tags: dict[str, str], aliases: tuple[str, ...]) -> Version:
    model, number, created, source, run_id = row
    promotions = tuple(
        Promotion(**{**p, "at": datetime.fromisoformat(p["at"]), "gate": tuple(p["gate"])})
        for p in json.loads(tags.get(PROMOTIONS, "[]"))
    )
    return Version(
        model=model,
        number=number,
        fingerprint=tags.get(FINGERPRINT, ""),
        artifact=tags.get(ARTIFACT),
        source=source or "",
        run_id=run_id or None,
        created_at=datetime.fromtimestamp(created / 1000, UTC),
        aliases=aliases,
        metrics=json.loads(tags.get(METRICS, "{}")),
        evaluated_text=tags.get(TEXT),
        promotions=promotions,
        tags={key: value for key, value in tags.items() if not key.startswith("platen.")},
    )


def _query(project_dir: Path, sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Rows of a read-only query; none when there is no database or its tables are not made yet."""
    path = database(project_dir)
    if not path.is_file():
        return []
    try:
        # Not mode=ro: after a kill in the middle of a commit the next to open the file has to roll it back.
        location = f"{path.resolve().as_uri()}?mode=rw"
        with closing(sqlite3.connect(location, uri=True, timeout=20)) as connection:
            return connection.execute(sql, values).fetchall()
    except sqlite3.Error as error:
        if "no such table" in str(error):
            return []
        raise RegistryError(
            f"The registry {path} can't be read: {error}.",
            hint="restore the file from a backup, or move it away and run again to register anew",
        ) from error
