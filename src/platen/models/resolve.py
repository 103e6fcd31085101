"""From what a user types to a model: the one place that understands references.

A reference is a model's folder (a bundle, or a form that one was compiled to), a GGUF file, a URL that fsspec
reads, a name on the Hugging Face Hub, a registered MODEL, MODEL@NUMBER or MODEL@ALIAS, or `remote:` before
the URL of a service that speaks OpenAI's API. Whoever knows the registered models hands them in once, when
the `Resolver` is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from platen.core.download import Report, no_report
from platen.core.errors import BundleError, ConfigError
from platen.core.phases import Phase, no_phase
from platen.core.urls import shown
from platen.models.remote import is_url, name_in

if TYPE_CHECKING:
    from platen.models.compiled import Compiled
    from platen.models.generation_config import GenerationConfig
    from platen.models.gguf import GgufModel
    from platen.models.stated_config import StatedConfig
    from platen.models.store import HeldFolder
    from platen.tokens.tokenizer import Tokenizer

BUNDLE, OPENVINO, GGUF, REMOTE = "bundle", "openvino", "gguf", "remote"
REMOTE_PREFIX = "remote:"
Kind = Literal["folder", "gguf file", "url", "hub", "registered", "remote"]


@dataclass(frozen=True)
class RegisteredModel:
    """A version in a registry: its model's name, `MODEL@NUMBER`, and the folders of its forms that are there,
    the bundle's first."""

    model: str
    version: str
    folders: tuple[Path, ...]


class RegisteredModels(Protocol):
    """What knows the models that a project has registered."""

    def find(self, reference: str | None) -> RegisteredModel:
        """By MODEL, MODEL@NUMBER or MODEL@ALIAS; None is the project's own model in production.

        Raises RegistryError when there is no such version, ArtifactError when its files are gone.
        """
        ...


class NoRegistry:
    """Where there is no project: every name is unknown."""

    def find(self, reference: str | None) -> RegisteredModel:
        if reference is None:
            raise ConfigError("no model is named", hint="Name one, or a project with -p.")
        raise BundleError(
            f"there is no model folder {reference}",
            hint="Give a folder, or a name on the Hugging Face Hub such as HuggingFaceTB/SmolLM2-135M.",
        )


@dataclass(frozen=True)
class Location:
    """Where a reference leads, before anything is fetched or opened.

    `name` is what the model is called unless told otherwise; `folders` are those on this machine.
    """

    reference: str
    kind: Kind
    name: str
    folders: tuple[Path, ...] = ()
    version: str | None = None

    @property
    def is_here(self) -> bool:
        """Nothing has to be fetched."""
        return bool(self.folders)


@dataclass(frozen=True)
class ResolvedModel:
    """A model that an engine can open. `path` is a folder or a GGUF file; of a remote one, its tokenizer's.

    `form` names what lies there: bundle, openvino, gguf or remote; engines from outside may add their own.
    `others` are further forms of the same model, `address` is where a remote one answers, `version` the
    registered MODEL@NUMBER. `held` keeps a fetched folder in the cache until `release`.
    """

    reference: str
    form: str
    path: Path
    name: str
    weights: str = "as stored"
    version: str | None = None
    compiled: Compiled | None = None
    others: tuple[ResolvedModel, ...] = ()
    address: str = ""
    held: HeldFolder | None = field(default=None, compare=False)

    @cached_property
    def config(self) -> StatedConfig:
        """What `config.json` or a GGUF file's metadata say. Raises BundleError when missing or damaged."""
        from platen.models.stated_config import StatedConfig

        return StatedConfig.read(self.path) if self.file is None else StatedConfig.of_gguf(self.file)

    @cached_property
    def file(self) -> GgufModel | None:
        """The metadata of a GGUF file that is served as it is. Raises BundleError when it is damaged."""
        if not self.path.is_file():
            return None
        from platen.models.gguf import GgufModel

        return GgufModel.open(self.path)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises BundleError when it is missing or damaged."""
        from platen.tokens.convert import open_tokenizer

        return open_tokenizer(self.path) if self.file is None else self.file.tokenizer()

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when the model does; those of a compiled form are its bundle's."""
        if self.compiled is not None:
            return self.compiled.bundle_fingerprint
        if self.form == REMOTE:
            return _digest(self.address)
        from platen.models.folder import bundle_fingerprint
        from platen.models.store import remembered_digests

        with remembered_digests() as digest:
            if self.file is not None:
                return self.file.fingerprint(digest)
            return bundle_fingerprint(self.path, digest)

    @cached_property
    def parameters(self) -> int:
        """How many numbers its weights are; 0 when that can't be known."""
        from platen.models.stated_config import count_parameters

        if self.compiled is not None:
            return self.compiled.parameters
        if self.form == REMOTE:
            return 0
        return count_parameters(self.path, self.config) if self.file is None else self.file.parameters

    @cached_property
    def generation(self) -> GenerationConfig:
        """How its makers would sample. Raises BundleError for values out of range."""
        from platen.models.generation_config import GenerationConfig, read_generation_config

        if not self.path.is_dir():
            return GenerationConfig()
        return read_generation_config(self.path, self.config.vocab_size)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end a sequence, as the config, the tokenizer and the generation config say."""
        if self.file is not None:
            return self.file.eos_ids
        eos = self.tokenizer.eos_id
        own = (*self.config.eos_token_ids, *(() if eos is None else (eos,)))
        return tuple(dict.fromkeys((*own, *self.generation.eos_token_ids)))

    @property
    def forms(self) -> tuple[ResolvedModel, ...]:
        """This one and the others."""
        return (self, *self.others)

    def __str__(self) -> str:
        if self.form == REMOTE:
            return f"{REMOTE_PREFIX}{shown(self.address)}"
        if self.file is not None:
            return f"a GGUF file of {self.file.architecture}, {self.file.weights}"
        if self.compiled is None:
            return "the bundle itself" if self.form == BUNDLE else self.form
        return f"compiled to {self.form}, {self.weights}"

    def release(self) -> None:
        """Nobody needs its files any more."""
        if self.held is not None:
            self.held.release()


Fetch = Callable[[str, Report, Phase], "HeldFolder"]


def _fetch(url: str, report: Report, phase: Phase) -> HeldFolder:
    from platen.models.store import ModelCache

    return ModelCache().open(url, report=report, phase=phase)


@dataclass(frozen=True)
class Resolver:
    """Understands references, by the models that a project has registered; `fetch` makes a URL a folder."""

    registered: RegisteredModels = field(default_factory=NoRegistry)
    fetch: Fetch = _fetch

    def locate(self, reference: str | Path | None) -> Location:
        """Where a reference leads; None is the project's own model in production. Asks no network.

        Raises BundleError for a path that leads to no model, and as `RegisteredModels.find`.
        """
        if reference is None:
            return self._in_registry(None)
        text, path = str(reference), Path(reference).expanduser()
        if text.startswith(REMOTE_PREFIX):
            return Location(text, "remote", name_in(text.removeprefix(REMOTE_PREFIX).partition("?")[0]))
        if is_url(text):
            return Location(text, "url", name_in(text))
        if path.is_dir():
            return Location(text, "folder", path.resolve().name, (path,))
        if path.is_file() or path.suffix.lower() == ".gguf":
            return Location(text, "gguf file", path.stem, (_gguf_file(path),))
        if isinstance(reference, Path) or text.startswith(("/", ".", "~")):
            raise BundleError(
                f"there is no model folder {path}",
                hint="Give a folder, or a name on the Hugging Face Hub such as HuggingFaceTB/SmolLM2-135M.",
            )
        if "/" in text:
            return Location(text, "hub", text)
        return self._in_registry(text)

    def _in_registry(self, reference: str | None) -> Location:
        found = self.registered.find(reference)
        return Location(reference or found.version, "registered", found.model, found.folders, found.version)

    def resolve(
        self,
        reference: str | Path | Location | None,
        *,
        graph: str | None = None,
        report: Report = no_report,
        phase: Phase = no_phase,
    ) -> ResolvedModel:
        """The model that a reference leads to, fetched if it is elsewhere.

        `graph` is a file to fetch with a Hub model's, as `find_bundle` takes it. Raises as `locate`, and
        ArtifactError for a URL that can't be fetched, BundleError for what is no model.
        """
        at = reference if isinstance(reference, Location) else self.locate(reference)
        match at.kind:
            case "remote":
                return self._remote(at, phase)
            case "url":
                held = self.fetch(at.reference, report, phase)
                return replace(_form_in(held.path, at), held=held)
            case "hub":
                from platen.models.folder import find_bundle

                return _form_in(find_bundle(at.reference, graph=graph), at)
        first, *others = (_form_in(folder, at) for folder in at.folders)
        return replace(first, others=tuple(others))

    def _remote(self, at: Location, phase: Phase) -> ResolvedModel:
        """A model elsewhere, with its tokenizer's folder here: `remote:URL?tokenizer=REFERENCE`."""
        from urllib.parse import parse_qs, urlsplit

        address = at.reference.removeprefix(REMOTE_PREFIX)
        named = parse_qs(urlsplit(address).query).get("tokenizer")
        if not named:
            raise ConfigError(
                f"{REMOTE_PREFIX}{shown(address)} does not say which tokenizer its model has",
                hint=f"Add it: '{REMOTE_PREFIX}{shown(address)}?tokenizer=FOLDER'; or a Hub name.",
            )
        tokenizer = self.resolve(named[0], phase=phase)
        return replace(tokenizer, reference=at.reference, form=REMOTE, name=at.name, compiled=None,
                       weights="elsewhere", version=None, others=(), address=address)  # fmt: skip


def resolve(reference: str | Path) -> ResolvedModel:
    """The model that a reference leads to where no project's names are known; see `Resolver.resolve`."""
    return Resolver().resolve(reference)


def _gguf_file(path: Path) -> Path:
    """The path, if it is a GGUF file. Raises BundleError."""
    try:
        with path.open("rb") as opened:
            if opened.read(4) == b"GGUF":
                return path
    except OSError as error:
        raise BundleError(f"{path} can't be read: {error.strerror}", hint="Correct the path.") from None
    raise BundleError(f"{path} is no GGUF file", hint="Give a model's folder, or a file in GGUF's format.")


def _form_in(path: Path, at: Location) -> ResolvedModel:
    """What lies at `path`. Raises BundleError when it is a damaged compiled form."""
    if path.is_file():
        return ResolvedModel(at.reference, GGUF, path, at.name, version=at.version)
    from platen.models.compiled import read_compiled

    compiled = read_compiled(path)
    if compiled is None:
        return ResolvedModel(at.reference, BUNDLE, path, at.name, version=at.version)
    return ResolvedModel(
        at.reference, compiled.to, path, at.name, compiled.weights, at.version, compiled=compiled
    )


def _digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:16]
