"""What the paths in a project file lead to, as `platen doctor` asks: before a run or a server fails of it.

Sections name their paths and what has to be there. Each is looked up by what reads it later, where that is
quick and imports no torch, so that its complaint is the same. Nothing is asked over a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from platen.core.config import PathInFile, paths_in
from platen.core.errors import BundleError, ConfigError
from platen.core.wording import counted
from platen.data.instruct.config import InstructConfig
from platen.data.readers.config import Source
from platen.project.file import LoadedProject, LoadedService
from platen.tokens.config import TokenizerConfig

if TYPE_CHECKING:
    from platen.models.resolve import RegisteredModel
    from platen.registry.versions import Registry

_LABELLER = (
    "Give a folder in the Hub's format: `hf download NAME --local-dir FOLDER` makes one of a published model."
)


@dataclass(frozen=True)
class NamedPath:
    """A path by its key. `look` says in words what is there; it raises PlatenError, or ImportError without
    the extra that reads such a thing."""

    key: str
    look: Callable[[], str]


@dataclass(frozen=True)
class _Around:
    """Where relative paths begin, and what knows the registered models."""

    directory: Path
    registry: Callable[[], Registry]
    project: LoadedProject | None = None


def project_paths(loaded: LoadedProject) -> Iterator[NamedPath]:
    """What the stages read."""
    from platen.registry.versions import Registry

    def registry() -> Registry:
        return Registry(loaded.directory, url=loaded.project.registry, state=loaded.open_state())

    around = _Around(loaded.directory, registry, loaded)
    for found in paths_in(loaded.project):
        if not found.key.startswith("serve."):
            yield NamedPath(found.key, partial(_LOOKS[found.holds], found, around))


def serving_paths(loaded: LoadedService) -> Iterator[NamedPath]:
    """What a server reads beside the model that it is started with."""
    around = _Around(loaded.directory, loaded.open_registry)
    for found in paths_in(loaded.service):
        yield NamedPath(found.key, partial(_LOOKS[found.holds], found, around))


def _documents(found: PathInFile, around: _Around) -> str:
    from platen.data.sources import find_files

    source = cast(Source, found.section)
    if "://" in source.path and source.format != "sql":
        return f"{source.path} (not contacted)"
    assert around.project is not None
    data = around.project.project.data.model_copy(update={"sources": (source,)})
    files = find_files(around.directory, data)
    return f"{source.path}: {counted(len(files), 'file' if source.format is None else 'source')}"


def _reference(found: PathInFile, around: _Around) -> str:
    from platen.data.filters.files import reference_files

    if "://" in found.path:
        return f"{found.path} (not contacted)"
    files = reference_files(around.directory, cast(Source, found.section))
    return f"{found.path}: {counted(len(files), 'file')}"


def _pairs(found: PathInFile, around: _Around) -> str:
    from platen.data.instruct.sources import pair_files

    return counted(len(pair_files(around.directory, cast(InstructConfig, found.section))), "file")


def _template(found: PathInFile, around: _Around) -> str:
    from platen.tokens.learn import chat_template

    chat_template(cast(TokenizerConfig, found.section), around.directory)
    return found.path


def _ngrams(found: PathInFile, around: _Around) -> str:
    from platen.models.classic.ngram import KneserNey

    KneserNey.load(around.directory / found.path)
    return str(around.directory / found.path)


def _continuations(found: PathInFile, around: _Around) -> str:
    from platen.engines.batching.draft_ngrams import Continuations

    Continuations.load(around.directory / found.path)
    return str(around.directory / found.path)


def _words(found: PathInFile, around: _Around) -> str:
    from platen.scan.lists import read_words

    file = around.directory / found.path
    return f"{file}: {counted(len(read_words(file, found.holds)), 'entry', 'entries')}"


def _patterns(found: PathInFile, around: _Around) -> str:
    from platen.scan.lists import read_lines

    file = around.directory / found.path
    return f"{file}: {counted(len(read_lines(file, 'block list')), 'pattern')}"


@dataclass(frozen=True)
class _Registered:
    """The registered models by name, wherever their files are."""

    registry: Callable[[], Registry]

    def find(self, reference: str | None) -> RegisteredModel:
        from platen.models.resolve import RegisteredModel

        name, _, version = (reference or "").partition("@")
        found = self.registry().get(name, version or "production")
        return RegisteredModel(found.model, found.name, ())


def _model(found: PathInFile, around: _Around) -> str:
    """As the commands understand it, from the project file's folder."""
    from platen.core.urls import shown
    from platen.models.resolve import Resolver

    reference, here = found.path, around.directory / found.path
    try:
        location = Resolver(_Registered(around.registry)).locate(str(here) if here.exists() else reference)
    except BundleError as error:
        where = found.key.partition(":")[0]
        raise ConfigError(error.message, hint=f"Correct {where}. {error.hint}") from None
    match location.kind:
        case "folder":
            return _folder(location.folders[0], ("config.json",), "Give a model's folder.")
        case "hub":
            return f"{reference}: no folder here, so a name on the Hub (not contacted)"
        case "url" | "remote":
            return f"{shown(reference)} (not contacted)"
        case "gguf file":
            return f"{reference}: a GGUF file"
    return f"{location.version} in the registry"


def _file(found: PathInFile, around: _Around) -> str:
    return _at(around.directory / found.path)


def _marked(marks: tuple[str, ...], hint: str) -> Callable[[PathInFile, _Around], str]:
    return lambda found, around: _folder(around.directory / found.path, marks, hint)


_LOOKS: Mapping[str, Callable[[PathInFile, _Around], str]] = {
    "documents": _documents,
    "reference": _reference,
    "pairs": _pairs,
    "template": _template,
    "n-grams": _ngrams,
    "draft n-grams": _continuations,
    "word list": _words,
    "block list": _words,
    "patterns": _patterns,
    "model": _model,
    "file": _file,
    "bundle": _marked(("config.json",), "Give a model's folder."),
    "tagger": _marked(("config.json",), _LABELLER),
    "classifier": _marked(
        ("classifier.json", "config.json"), f"{_LABELLER} Or save a classifier of platen.baselines in it."
    ),
}


def _at(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(
            f"{path} {'is no file' if path.exists() else 'does not exist'}",
            hint="Correct the path; it is relative to platen.yaml.",
        )
    return str(path)


def _folder(path: Path, marks: tuple[str, ...], hint: str) -> str:
    """A folder with one of the files `marks`."""
    if any((path / mark).is_file() for mark in marks):
        return str(path)
    what = f"has no {' or '.join(marks)}" if path.is_dir() else "does not exist"
    raise ConfigError(f"{path} {what}", hint=hint)
