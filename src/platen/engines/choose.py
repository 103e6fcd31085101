"""Which engine serves a model: from the forms of it there are, what is installed, and what was measured here.

A form is a bundle, which PyTorch runs, or a folder that a bundle was compiled to.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from platen.core.errors import ConfigError, MissingExtraError
from platen.engines.benchmark_cache import AT_ONCE, SpeedMeasurement, cached_forms, read_measurements
from platen.models.compiled import read_compiled
from platen.models.folder import bundle_fingerprint, read_json
from platen.models.llama_config import LlamaConfig

EngineName = Literal["torch", "openvino", "llamacpp"]
ENGINES: tuple[EngineName, ...] = ("torch", "openvino", "llamacpp")
COMPILE_TO: dict[str, str] = {"openvino": "openvino", "llamacpp": "gguf"}
"""The compiled form that an engine runs."""
_MODULES = {"torch": "torch", "openvino": "openvino", "llamacpp": "llama_cpp"}
EXTRAS = {"torch": "serve", "openvino": "openvino", "llamacpp": "edge"}


@dataclass(frozen=True)
class Form:
    """A folder that an engine can open."""

    engine: EngineName
    path: Path
    weights: str

    def __str__(self) -> str:
        if self.engine == "torch":
            return "torch: the bundle itself"
        return f"{self.engine}: compiled to {COMPILE_TO[self.engine]}, {self.weights}"


@dataclass(frozen=True)
class Choice:
    """What to open, a folder or a name that leads to one, and why this."""

    path: Path | str
    why: str


def installed(engine: str) -> bool:
    return importlib.util.find_spec(_MODULES[engine]) is not None


def form_of(folder: Path) -> Form:
    """What `folder` holds. Raises BundleError when it is a damaged compiled form."""
    compiled = read_compiled(folder)
    if compiled is None:
        return Form("torch", folder, "as stored")
    return Form("openvino" if compiled.to == "openvino" else "llamacpp", folder, compiled.weights)


def choose(folders: Sequence[Path], wanted: str | None = None) -> Choice:
    """The form among `folders`, all of one model, and those of it in the cache, that is to be served.

    `wanted` names the engine; its form must exist and its library be installed. Without it the fastest
    measured here is taken, else a compiled form before the bundle. Raises ConfigError, MissingExtraError,
    BundleError.
    """
    forms = [form_of(folder) for folder in folders]
    if any(form.engine == "torch" for form in forms):
        forms += _cached(next(form.path for form in forms if form.engine == "torch"))
    if wanted is not None:
        return _named(forms, wanted)
    usable = [form for form in forms if installed(form.engine)]
    if not usable:
        raise MissingExtraError(EXTRAS[forms[0].engine], f"serving {forms[0].path}")
    if len(forms) == 1:
        return Choice(usable[0].path, f"{usable[0]}; no other form of it is here")
    return _fastest(usable) or _by_default(usable, [form for form in forms if form not in usable])


def _cached(bundle: Path) -> list[Form]:
    """Compiled forms that `platen bench engines` made of this very bundle."""
    if not cached_forms("*"):
        return []  # nothing at all is cached: spare the hashing
    return [form_of(folder) for folder in cached_forms(bundle_fingerprint(bundle)) if read_compiled(folder)]


def _named(forms: Sequence[Form], wanted: str) -> Choice:
    found = next((form for form in forms if form.engine == wanted), None)
    if found is None:
        there = ", ".join(str(form) for form in forms)
        if wanted == "torch":
            raise ConfigError(f"torch runs a bundle; there is only {there}", hint="name the bundle's folder")
        raise ConfigError(
            f"{wanted} runs a compiled form that is not there; there is {there}",
            hint=f"platen compile {forms[0].path} --to {COMPILE_TO[wanted]}",
        )
    if not installed(wanted):
        raise MissingExtraError(EXTRAS[wanted], f"the engine {wanted}")
    return Choice(found.path, f"{found}; asked for with --engine")


def _fastest(forms: Sequence[Form]) -> Choice | None:
    """The fastest of those measured on this machine, when there are several such."""
    config = LlamaConfig.from_hf(read_json(forms[0].path / "config.json"))
    stats = read_measurements(config)
    measured: list[tuple[SpeedMeasurement, Form]] = []
    for form in forms:
        measured += [(f, form) for f in stats if f.engine == form.engine and f.weights == form.weights][:1]
    if len({form.engine for _, form in measured}) < 2:
        return None
    ranked = sorted(measured, key=lambda pair: pair[0].decode_crowded, reverse=True)
    best, form = ranked[0]
    others = ", ".join(f"{f.engine} {f.decode_crowded:.3g}" for f, _ in ranked[1:])
    return Choice(
        form.path,
        f"{form}; the fastest measured here, {best.decode_crowded:.3g} tokens/s "
        f"with {AT_ONCE} requests at once ({others})",
    )


def _by_default(usable: Sequence[Form], left_out: Sequence[Form]) -> Choice:
    order = ["openvino", "llamacpp", "torch"]
    if platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"):
        order = ["llamacpp", "torch", "openvino"]  # OpenVINO is made for the others
    best = min(usable, key=lambda form: order.index(form.engine))
    why = f"{best}; the first choice on this processor ({platform.machine()})"
    for form in left_out:
        why += f"; {form.engine} would need the extra [{EXTRAS[form.engine]}]"
    return Choice(best.path, f"{why}; `platen bench engines` would measure")
