"""What `platen new` writes: the files under `project/`, with the project's name put in.

A file `dot-NAME` there becomes `.NAME`: packaging tools leave files with a leading dot out of wheels.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from platen.core.errors import ConfigError

_ROOT = Path(__file__).parent / "project"
_PLACEHOLDER = "__NAME__"
_VALID_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
SCHEMA_FILE = ".platen-schema.json"


def new_project(directory: Path, name: str) -> list[Path]:
    """Write a runnable project called `name` into `directory`, which must be empty or not there yet.

    Gives the files written. Raises ConfigError for a bad name or a directory that is in use; an existing
    file is never replaced.
    """
    from platen.project.schema import json_schema

    if not _VALID_NAME.fullmatch(name):
        proposal = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:63]
        raise ConfigError(
            f"{name!r} can't name a project: lower-case letters, digits, - and _, at most 63, "
            "the first a letter or digit",
            hint=f"platen new {proposal or 'hello'}",
        )
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            kind = "is not empty" if directory.is_dir() else "is a file"
            raise ConfigError(f"{directory} {kind}; nothing was written", hint="choose another name")
        written = [_write(source, directory, name) for source in sorted(_ROOT.rglob("*")) if source.is_file()]
        schema = directory / SCHEMA_FILE
        schema.write_text(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{error.filename or directory}: {error.strerror}", hint="choose a folder that can be written"
        ) from error
    return [*written, schema]


def _write(source: Path, directory: Path, name: str) -> Path:
    relative = source.relative_to(_ROOT)
    target = directory / relative.with_name(re.sub(r"^dot-", ".", relative.name))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(source.read_text(encoding="utf-8").replace(_PLACEHOLDER, name), encoding="utf-8")
    return target
