"""What the paths in a project file lead to, as `platen doctor` asks: before a run or a server fails of it.

Each is looked up by what reads it later, where that is quick and imports no torch, so that its complaint is
the same. Nothing is asked over a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from platen.core.errors import BundleError, ConfigError
from platen.core.wording import counted
from platen.data.filters.config import ContaminationBlock, PerplexityBlock, PiiBlock, ToxicityBlock
from platen.data.readers.config import Source
from platen.project.file import LoadedService
from platen.project.sections import Project

if TYPE_CHECKING:
    from platen.models.resolve import RegisteredModel

_LABELLER = (
    "Give a folder in the Hub's format: `hf download NAME --local-dir FOLDER` makes one of a published model."
)


@dataclass(frozen=True)
class NamedPath:
    """A path by its key. `look` says in words what is there; it raises PlatenError, or ImportError without
    the extra that reads such a thing."""

    key: str
    look: Callable[[], str]


def project_paths(project: Project, directory: Path) -> Iterator[NamedPath]:
    """What the stages read. `directory` is where relative paths begin."""
    for number, source in enumerate(project.data.sources):
        yield NamedPath(f"data.sources.{number}", partial(_source, project, source, directory))
    for number, block in enumerate(project.data.filters.blocks if project.data.filters else ()):
        key = f"data.filters.blocks.{number}"
        match block:
            case PerplexityBlock(model=str(name)):
                yield NamedPath(f"{key}.model", partial(_ngrams, directory / name))
            case PerplexityBlock(reference=Source() as source):
                yield NamedPath(f"{key}.reference", partial(_reference, source, directory))
            case ContaminationBlock():
                for name in block.against:
                    yield NamedPath(f"{key}.against: {name}", partial(_file, directory / name))
            case PiiBlock(names=str(name)):
                yield NamedPath(
                    f"{key}.names", partial(_folder, directory / name, ("config.json",), _LABELLER)
                )
            case ToxicityBlock():
                yield from _toxicity(block, key, directory)
    if project.makes_tokens and project.tokenizer.chat_template is not None:
        yield NamedPath("tokenizer.chat_template", partial(_template, project, directory))
    if project.instruct is not None:
        if project.instruct.sources or project.instruct.acts.labels is not None:
            yield NamedPath("instruct.sources", partial(_pairs, project, directory))
        if project.instruct.acts.bundle is not None:
            bundle, hint = directory / project.instruct.acts.bundle, "Give a model's folder."
            yield NamedPath("instruct.acts.bundle", partial(_folder, bundle, ("config.json",), hint))


def serving_paths(loaded: LoadedService) -> Iterator[NamedPath]:
    """What a server reads beside the model that it is started with."""
    located = loaded.service.serve.located(loaded.directory)
    for entry in loaded.service.serve.models:
        yield NamedPath(f"serve.models: {entry.name}", partial(_model, entry.path, loaded))
    lists = located.guards.blocklist
    if lists.words is not None:
        yield NamedPath("serve.guards.blocklist.words", partial(_words, Path(lists.words), "block list"))
    if lists.patterns is not None:
        yield NamedPath("serve.guards.blocklist.patterns", partial(_patterns, Path(lists.patterns)))
    if located.draft is not None and located.draft.ngram is not None:
        yield NamedPath("serve.draft.ngram", partial(_continuations, Path(located.draft.ngram)))


def _toxicity(block: ToxicityBlock, key: str, directory: Path) -> Iterator[NamedPath]:
    if block.words is not None:
        yield NamedPath(f"{key}.words", partial(_words, directory / block.words, "word list"))
    if block.classifier is not None:
        marks = ("classifier.json", "config.json")
        hint = f"{_LABELLER} Or save a classifier of platen.baselines in it."
        yield NamedPath(f"{key}.classifier", partial(_folder, directory / block.classifier, marks, hint))


def _source(project: Project, source: Source, directory: Path) -> str:
    from platen.data.sources import find_files

    if "://" in source.path and source.format != "sql":
        return f"{source.path} (not contacted)"
    files = find_files(directory, project.data.model_copy(update={"sources": (source,)}))
    return f"{source.path}: {counted(len(files), 'file' if source.format is None else 'source')}"


def _reference(source: Source, directory: Path) -> str:
    from platen.data.filters.files import reference_files

    if "://" in source.path:
        return f"{source.path} (not contacted)"
    return f"{source.path}: {counted(len(reference_files(directory, source)), 'file')}"


def _pairs(project: Project, directory: Path) -> str:
    from platen.data.instruct.sources import pair_files

    assert project.instruct is not None
    return counted(len(pair_files(directory, project.instruct)), "file")


def _template(project: Project, directory: Path) -> str:
    from platen.tokens.learn import chat_template

    chat_template(project.tokenizer, directory)
    return str(project.tokenizer.chat_template)


def _ngrams(folder: Path) -> str:
    from platen.models.classic.ngram import KneserNey

    KneserNey.load(folder)
    return str(folder)


def _continuations(folder: Path) -> str:
    from platen.engines.batching.draft_ngrams import Continuations

    Continuations.load(folder)
    return str(folder)


def _words(file: Path, what: str) -> str:
    from platen.scan.lists import read_words

    return f"{file}: {counted(len(read_words(file, what)), 'entry', 'entries')}"


def _patterns(file: Path) -> str:
    from platen.scan.lists import read_lines

    return f"{file}: {counted(len(read_lines(file, 'block list')), 'pattern')}"


@dataclass(frozen=True)
class _Registered:
    """The registered models by name, wherever their files are."""

    loaded: LoadedService

    def find(self, reference: str | None) -> RegisteredModel:
        from platen.models.resolve import RegisteredModel

        name, _, version = (reference or self.loaded.service.name).partition("@")
        found = self.loaded.open_registry().get(name, version or "production")
        return RegisteredModel(found.model, found.name, ())


def _model(reference: str, loaded: LoadedService) -> str:
    """As `platen serve` understands it, from the project file's folder."""
    from platen.core.urls import shown
    from platen.models.resolve import Resolver

    here = loaded.directory / reference
    try:
        location = Resolver(_Registered(loaded)).locate(str(here) if here.exists() else reference)
    except BundleError as error:
        raise ConfigError(error.message, hint=f"Correct serve.models. {error.hint}") from None
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


def _file(path: Path) -> str:
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
