"""What a server was told over /admin, in a small file of the project, so that a restart does not lose it.

One file a served name, `.platen/serving-NAME.json`: the last word on each name that was changed, in the order
in which they first were. It is written under another name and renamed. Its owner alone can read it: among the
references can be a URL with a signature in it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from pydantic import ValidationError

from platen.core.errors import PlatenError
from platen.serve.hub.route_spec import RouteSpec

log = logging.getLogger(__name__)

_FORMAT = 1


class KeptChangesError(PlatenError):
    """The file of changes can't be read."""


def changes_file(project_dir: Path, name: str) -> Path:
    """Where the changes of the server of `name` are kept."""
    return project_dir / ".platen" / f"serving-{quote(name, safe='')}.json"


class KeptChanges:
    """The changes in the file at `path`; without one they last as long as the server."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises KeptChangesError when the file can't be read."""
        self._path = path
        self._changes: dict[str, RouteSpec | None] = {}
        if path is not None and path.exists():
            self._changes = _read(path)

    @property
    def changes(self) -> Mapping[str, RouteSpec | None]:
        """What is to answer to each name that was changed; None to one that was removed."""
        return self._changes

    def set(self, name: str, spec: RouteSpec | None) -> None:
        """Keep what answers to a name from now on."""
        if spec is not None:
            spec = spec.with_references(_from_anywhere).model_copy(update={"reload": False})
        self._changes[name] = spec
        self._write()

    def without_canary(self, name: str) -> None:
        """A canary that was taken back does not come again."""
        spec = self._changes.get(name)
        if spec is not None and spec.canary is not None:
            self.set(name, spec.model_copy(update={"canary": None}))

    def _write(self) -> None:
        if self._path is None:
            return
        routes = {
            name: None if spec is None else spec.model_dump(exclude_defaults=True)
            for name, spec in self._changes.items()
        }
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump({"format": _FORMAT, "routes": routes}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            log.error("a change is made, but can't be kept for the next start in %s: %s", self._path, error)


def _read(path: Path) -> dict[str, RouteSpec | None]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']}")
        routes = content["routes"].items()
        return {name: None if spec is None else RouteSpec.model_validate(spec) for name, spec in routes}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise KeptChangesError(
            f"the changes kept in {path} can't be read: {str(error).splitlines()[0]}",
            hint="platen serve --fresh starts without them and forgets them.",
        ) from None


def _from_anywhere(reference: str) -> str:
    """A reference that leads to the same folder whatever folder a server is started in."""
    if Path(reference).is_dir():
        return str(Path(reference).resolve())
    base, plus, folder = reference.partition("+")
    return f"{base}+{Path(folder).resolve()}" if plus and Path(folder).is_dir() else reference
