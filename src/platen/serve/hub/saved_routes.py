"""What servers were told over /admin, in a document of the project's state: a restart does not lose it.

One document for each served name: the last word on each name that was changed, in the order in which they
first were. Where the state is shared, the servers of that name learn from it what the others were told. Its
owner alone can read it: among the references can be a URL with a signature in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from platen.core.errors import PlatenError
from platen.core.state.interface import Document, State, StateError
from platen.serve.hub.route_spec import RouteSpec

log = logging.getLogger(__name__)

_FORMAT = 1
Changes = Mapping[str, RouteSpec | None]
"""What is to answer to each name that was changed; None to one that was removed."""


class KeptChangesError(PlatenError):
    """The document of changes can't be read."""


def changes_document(state: State, name: str) -> Document:
    """Where the changes of the servers of `name` are kept."""
    return state.document(f"serving-{quote(name, safe='')}", private=True)


class KeptChanges:
    """The changes in a document; without one they last as long as the server.

    `changing` is held by whoever makes a change, so that two don't cross.
    """

    def __init__(self, document: Document | None = None, *, shared: bool = False) -> None:
        """`shared`: other servers change the document too. Raises KeptChangesError when it can't be read."""
        self._document = document
        self.shared = shared
        self.changing = asyncio.Lock()
        self._seen = None if document is None else document.revision()
        self._changes: dict[str, RouteSpec | None] = {} if document is None else _read(document)

    @property
    def changes(self) -> Changes:
        return self._changes

    def set(self, name: str, spec: RouteSpec | None) -> None:
        """Keep what answers to a name from now on."""
        if spec is not None:
            spec = spec.with_references(_from_anywhere).model_copy(update={"reload": False})
        self._changes[name] = spec
        if self._document is None:
            return
        try:
            self._document.update(lambda content: _with(content, name, spec))
        except StateError as error:
            log.error("a change is made, but can't be kept for the next start: %s", error.message)

    def without_canary(self, name: str) -> None:
        """A canary that was taken back does not come again."""
        spec = self._changes.get(name)
        if spec is not None and spec.canary is not None:
            self.set(name, spec.model_copy(update={"canary": None}))

    async def learn(self) -> Changes:
        """What other servers were told since the last time.

        Raises StateError, KeptChangesError; the next time may do better.
        """
        if self._document is None:
            return {}
        before = dict(self._changes)
        revision = await asyncio.to_thread(self._document.revision)
        if revision == self._seen:
            return {}
        there = await asyncio.to_thread(_read, self._document)
        if self._changes != before:  # changed here meanwhile: what was read may be older
            return {}
        self._seen, self._changes = revision, dict(there)
        return {name: spec for name, spec in there.items() if name not in before or before[name] != spec}


def _with(content: Any, name: str, spec: RouteSpec | None) -> dict[str, Any]:
    """The document with one name changed; what can't be read is replaced."""
    routes = content.get("routes") if isinstance(content, dict) else None
    changed = None if spec is None else spec.model_dump(exclude_defaults=True)
    return {"format": _FORMAT, "routes": {**(routes if isinstance(routes, dict) else {}), name: changed}}


def _read(document: Document) -> dict[str, RouteSpec | None]:
    try:
        content = document.read()
        if content is None:
            return {}
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']}")
        routes = content["routes"].items()
        return {name: None if spec is None else RouteSpec.model_validate(spec) for name, spec in routes}
    except (StateError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        reason = error.message if isinstance(error, StateError) else str(error)
        raise KeptChangesError(
            f"the changes kept in {document.shown} can't be read: {reason.splitlines()[0]}",
            hint="platen serve --fresh starts without them and forgets them.",
        ) from None


def _from_anywhere(reference: str) -> str:
    """A reference that leads to the same folder whatever folder a server is started in."""
    if Path(reference).is_dir():
        return str(Path(reference).resolve())
    base, plus, folder = reference.partition("+")
    return f"{base}+{Path(folder).resolve()}" if plus and Path(folder).is_dir() else reference
