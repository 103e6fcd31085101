"""Things by name that Platen brings and that other packages add: stages, kinds of training, metrics.

A package adds one by an entry point of the group, or a program by `register`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from platen.core.errors import ConfigError

log = logging.getLogger(__name__)


class Named(Protocol):
    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=Named)


class Catalogue(Generic[NamedT]):
    """Items by their names, Platen's own first; entry points are loaded when first asked for.

    An entry point of `group` leads to an item, or to an iterable of items.
    """

    def __init__(self, group: str, own: Iterable[NamedT]) -> None:
        self.group = group
        self._items = {item.name: item for item in own}
        self._loaded = False

    def register(self, item: NamedT) -> None:
        """Add an item. Raises ConfigError when another one has its name."""
        if self._items.setdefault(item.name, item) is not item:
            raise ConfigError(
                f"there are two of the name {item.name!r} among {self.group}",
                hint="rename yours, or uninstall the package that brings the other",
            )

    def all(self) -> dict[str, NamedT]:
        """Every item. What an entry point can't load is logged and left out. Raises as `register`."""
        if not self._loaded:
            self._loaded = True
            for point in entry_points(group=self.group):
                for item in _load(point):
                    self.register(item)
        return dict(self._items)


def _load(point: EntryPoint) -> tuple[Any, ...]:
    try:
        found = point.load()
    except Exception as error:  # whatever another package does wrong
        log.error(
            "%s of the group %s can't be loaded from %s: %s", point.name, point.group, point.value, error
        )
        return ()
    return (found,) if hasattr(found, "name") else tuple(found)
