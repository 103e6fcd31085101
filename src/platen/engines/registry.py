"""The engines there are: each says in one `EngineSpec` what it runs, where, and how it is opened.

Those of this package declare theirs in `engines/NAME/spec.py`. Others come from packages with an entry point
in the group `platen.engines`, which names an EngineSpec, or by `register`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

from platen.core.errors import ConfigError, MissingExtraError
from platen.core.phases import Phase

if TYPE_CHECKING:
    from platen.engines.options import EngineOptions
    from platen.engines.protocol import Capability, Engine
    from platen.models.resolve import ResolvedModel

log = logging.getLogger(__name__)

ENTRY_POINTS = "platen.engines"
_BUILT_IN = ("torch", "openvino", "llamacpp", "vllm", "transformers", "ladder", "remote")


def _takes_any(model: ResolvedModel) -> str | None:
    return None


@dataclass(frozen=True)
class EngineSpec:
    """`open` starts the engine on a model of one of the `forms`; it imports what it needs itself.

    `open` raises BundleError for what it can't run, ConfigError for options that it can't follow. `module` is
    what must be importable, `extra` what installs it; of the distributions in `packages` its speed depends.
    `devices` are types of devices that it computes on; empty when it sees to that itself. `refuses` says why
    it can't run a model, before anything is loaded. `rank` orders those that can run the same model, lowest
    first, when none was measured; an engine without is taken only when it is asked for.
    """

    name: str
    forms: tuple[str, ...]
    open: Callable[[ResolvedModel, EngineOptions, Phase], Engine]
    extra: str = ""
    module: str = ""
    packages: tuple[str, ...] = ()
    capabilities: frozenset[Capability] = frozenset()
    devices: tuple[str, ...] = ("cpu",)
    refuses: Callable[[ResolvedModel], str | None] = _takes_any
    rank: int | None = None

    @property
    def installed(self) -> bool:
        """Whether the library that it runs on is there."""
        return not self.module or importlib.util.find_spec(self.module) is not None

    def check_installed(self, what: str) -> None:
        """Raises MissingExtraError when it is not, ConfigError when no extra installs it."""
        if self.installed:
            return
        if self.extra:
            raise MissingExtraError(self.extra, what)
        raise ConfigError(
            f"{what} needs {self.module}, which is not installed", hint=f"install {self.module}"
        )


_REGISTERED: dict[str, EngineSpec] = {}


def register(spec: EngineSpec) -> None:
    """Add an engine, or replace the one of that name."""
    _REGISTERED[spec.name] = spec


def unregister(name: str) -> None:
    """Take an engine that `register` added out again."""
    _REGISTERED.pop(name, None)


def engines() -> Mapping[str, EngineSpec]:
    """Every engine by its name: this package's, those of other packages, those registered."""
    return {**_built_in(), **_from_entry_points(), **_REGISTERED}


def engine(name: str) -> EngineSpec:
    """The engine of this name. Raises ConfigError, naming those there are."""
    known = engines()
    if name not in known:
        raise ConfigError(f"there is no engine {name!r}", hint=f"engines: {', '.join(known)}")
    return known[name]


@cache
def _built_in() -> Mapping[str, EngineSpec]:
    found = [importlib.import_module(f"platen.engines.{name}.spec").SPEC for name in _BUILT_IN]
    return {spec.name: spec for spec in found}


@cache
def _from_entry_points() -> Mapping[str, EngineSpec]:
    found: dict[str, EngineSpec] = {}
    for point in metadata.entry_points(group=ENTRY_POINTS):
        try:
            spec = point.load()
        except Exception as error:  # whatever another package does wrong
            log.error("the engine %s of %s can't be had: %s", point.name, point.value, error)
            continue
        if isinstance(spec, EngineSpec):
            found[spec.name] = spec
        else:
            log.error("the entry point %s of %s names no EngineSpec", point.name, point.value)
    return found
