"""Chooses where a project's state is kept: `.platen`, or a database that machines share."""

from __future__ import annotations

import os
from pathlib import Path

from platen.core.errors import ConfigError
from platen.core.state.embedded import EmbeddedState
from platen.core.state.interface import State
from platen.core.urls import shown

STATE_VARIABLE = "PLATEN_STATE_URL"
"""Environment variable that says where the state is, before what the project file says."""
_SCHEMES = ("postgresql://", "postgres://", "postgresql+psycopg://")


def open_state(project_dir: Path, project: str, url: str | None = None) -> State:
    """The state of the project of that name.

    `url` is a PostgreSQL database, in which projects are kept apart by their names; None is `.platen` in
    `project_dir`. PLATEN_STATE_URL goes before it. Raises ConfigError for another URL, MissingExtraError.
    """
    url = os.environ.get(STATE_VARIABLE) or url
    if url is None:
        return EmbeddedState(project_dir)
    if not url.startswith(_SCHEMES):
        raise ConfigError(
            f"state: {shown(url)} is no address of a PostgreSQL database",
            hint="postgresql://USER:PASSWORD@HOST/DATABASE; without one the state is kept in .platen",
        )
    from platen.core.state.postgresql import PostgresState

    return PostgresState(url, project)
