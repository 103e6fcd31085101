"""Which engine runs a model: by the forms of it there are, what is installed and what was measured here."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from platen.core.errors import BundleError, ConfigError
from platen.engines.benchmark_cache import AT_ONCE, SpeedMeasurement, cached_forms, read_measurements
from platen.engines.registry import EngineSpec, engine, engines
from platen.models.resolve import BUNDLE, ResolvedModel, resolve

AUTO = "auto"


@dataclass(frozen=True)
class Choice:
    """The form of a model to open, the engine that opens it, and why these."""

    spec: EngineSpec
    model: ResolvedModel
    why: str = ""

    def __str__(self) -> str:
        return f"{self.spec.name}: {self.model}"


def choose(model: ResolvedModel, wanted: str | None = None, device: str = AUTO) -> Choice:
    """The form of `model` to be served, and its engine.

    `wanted` names an engine; a form for it must exist and its library be installed. With `auto` the fastest
    measured here is taken, else by the engines' ranks, of all the model's forms and those of it in the cache;
    with None the best engine for the very form that was named. Raises ConfigError, MissingExtraError,
    BundleError.
    """
    if wanted is None:
        return replace(_best(list(_candidates(model, (model,), device)), model), why="")
    if wanted != AUTO:
        return _named(model, engine(wanted), device)
    found = list(_candidates(model, (*model.forms, *_cached(model)), device))
    usable = [choice for choice in found if choice.spec.installed]
    if len(found) == 1 and usable:
        return _told(usable[0], "no other form of it is here")
    best = _best(found, model)
    fastest = _fastest(usable, device)
    if fastest is not None:
        return fastest
    why = f"the first choice on this processor ({platform.machine()})"
    for choice in found:
        if choice not in usable:
            why += f"; {choice.spec.name} would need the extra [{choice.spec.extra}]"
    return _told(best, f"{why}; `platen bench engines` would measure")


def _told(choice: Choice, why: str) -> Choice:
    return replace(choice, why=f"{choice}; {why}")


def _candidates(model: ResolvedModel, forms: Sequence[ResolvedModel], device: str) -> Iterator[Choice]:
    """Engines that take a form of themselves and, as far as is known before loading, can run it."""
    for form in forms:
        held = replace(form, held=model.held) if form.held is not model.held else form
        for spec in engines().values():
            takes = spec.rank is not None and form.form in spec.forms and _computes_on(spec, device)
            if takes and not (spec.installed and spec.refuses(form)):
                yield Choice(spec, held)


def _computes_on(spec: EngineSpec, device: str) -> bool:
    return device == AUTO or not spec.devices or device.partition(":")[0] in spec.devices


def _best(found: Sequence[Choice], model: ResolvedModel) -> Choice:
    """By rank, of what is installed. Raises what says why there is none."""
    usable = [choice for choice in found if choice.spec.installed]
    if usable:
        return min(usable, key=lambda choice: choice.spec.rank or 0)
    for choice in found:
        choice.spec.check_installed(f"serving {model.path}")
    specs = [spec for spec in engines().values() if model.form in spec.forms]
    reasons = [reason for spec in specs if spec.installed and (reason := spec.refuses(model))]
    if reasons:
        raise BundleError(
            f"{model.path}: {'; '.join(reasons)}", hint="vLLM may know it: platen serve --engine vllm."
        )
    if not specs:
        raise ConfigError(f"no engine here runs {model}", hint=f"engines: {', '.join(engines())}")
    raise ConfigError(
        f"no engine for {model} computes on that device",
        hint=f"{specs[0].name} computes on {', '.join(specs[0].devices)}; leave --device out",
    )


def _cached(model: ResolvedModel) -> list[ResolvedModel]:
    """Compiled forms that `platen bench engines` made of this very bundle."""
    if not any(form.form == BUNDLE for form in model.forms) or not cached_forms("*"):
        return []  # nothing at all is cached: spare the hashing
    found = [resolve(folder) for folder in cached_forms(model.fingerprint)]
    return [replace(form, reference=model.reference, name=model.name) for form in found if form.compiled]


def _named(model: ResolvedModel, spec: EngineSpec, device: str) -> Choice:
    if not _computes_on(spec, device):
        raise ConfigError(
            f"the engine {spec.name} computes on {', '.join(spec.devices)}, and {device} is asked for",
            hint="leave --device out, or take another engine",
        )
    forms = (*model.forms, *_cached(model))
    found = next((form for form in forms if form.form in spec.forms), None)
    if found is None:
        there = ", ".join(str(form) for form in forms)
        if BUNDLE in spec.forms:
            raise ConfigError(
                f"{spec.name} runs a bundle; of {model.name} there is only: {there}",
                hint="name the bundle's folder"
                if model.file is None
                else f"make one: platen models import {model.path} --out FOLDER",
            )
        raise ConfigError(
            f"{spec.name} runs a form that is not there ({' or '.join(spec.forms)}); there is {there}",
            hint=f"platen compile {model.path} --to {spec.forms[0]}",
        )
    spec.check_installed(f"the engine {spec.name}")
    if (reason := spec.refuses(found)) is not None:
        raise BundleError(f"{found.path}: {reason}", hint="Take another engine: platen serve --engine auto.")
    held = replace(found, held=model.held) if found.held is not model.held else found
    return _told(Choice(spec, held), "asked for with --engine")


def _fastest(usable: Sequence[Choice], device: str) -> Choice | None:
    """The fastest of those measured on this machine, when there are several such."""
    if len({choice.spec.name for choice in usable}) < 2:
        return None
    stats = read_measurements(usable[0].model.config, device)
    measured: list[tuple[SpeedMeasurement, Choice]] = []
    for choice in usable:
        key = (choice.spec.name, choice.model.weights)
        measured += [(one, choice) for one in stats if (one.engine, one.weights) == key][:1]
    if len({choice.spec.name for _, choice in measured}) < 2:
        return None
    ranked = sorted(measured, key=lambda pair: pair[0].decode_crowded, reverse=True)
    best, choice = ranked[0]
    others = ", ".join(f"{one.engine} {one.decode_crowded:.3g}" for one, _ in ranked[1:])
    return _told(
        choice,
        f"the fastest measured here, {best.decode_crowded:.3g} tokens/s with {AT_ONCE} requests at once "
        f"({others})",
    )
