"""The stage `base`: the model that a project starts from, brought into the store as a bundle.

A folder is copied, a GGUF file imported, a model on the Hub or at a URL fetched: whatever comes of it later
stands on files that nobody changes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from platen.core.errors import ArtifactError, BundleError
from platen.core.stage import Sources, StageContext, StageResult
from platen.core.urls import shown
from platen.models.resolve import BUNDLE, Location, RegisteredModel, ResolvedModel, Resolver
from platen.registry.config import BaseConfig
from platen.registry.versions import Registry
from platen.tokens.folder import tokenizer_files

_COPIED = (".json", ".safetensors", ".md", ".txt")
_NAMES = ("LICENSE", "NOTICE")


@dataclass(frozen=True)
class _Bundles:
    """The registered models, as a `Resolver` asks for them: their bundles alone."""

    registry: Registry

    def find(self, reference: str | None) -> RegisteredModel:
        model, _, which = (reference or "").partition("@")
        version = self.registry.get(model, which or "production")
        folder = Path(unquote(urlsplit(version.source).path))
        if not folder.is_dir():
            raise ArtifactError(f"the bundle of {version.name} is gone: {version.source}", hint="platen run")
        return RegisteredModel(version.model, version.name, (folder,))


def base_files(config: BaseConfig, directory: Path) -> Sources:
    """The model's files where it is on this machine; of a Hub name or a URL, what it is called has to do.

    Raises BundleError for a path that leads to no model, RegistryError for an unknown version.
    """
    found: list[Path] = []
    for path in _located(config, directory)[1].folders:
        found += _bundle_files(path) if path.is_dir() else _gguf_files(path)
    return found


def bring_in(ctx: StageContext[BaseConfig]) -> StageResult:
    """Write the bundle of `ctx.config.model`.

    Raises BundleError for what is no bundle and can't be made one, ArtifactError for what can't be fetched.
    """
    resolver, location = _located(ctx.config, ctx.project_dir)
    with ctx.progress.task("fetching", unit="B") as task:
        model = resolver.resolve(location, report=lambda done, total: task.update(done, total=total))
    try:
        _write(model, ctx)
    finally:
        model.release()
    made = Resolver().resolve(ctx.out)
    return StageResult(
        metrics={"parameters": float(made.parameters), "context_window": float(made.config.context_window)},
        notes={"from": shown(ctx.config.model), "architecture": made.config.architecture},
    )


def _located(config: BaseConfig, directory: Path) -> tuple[Resolver, Location]:
    resolver = Resolver(_Bundles(Registry(directory, url=config.registry)))
    here = directory / Path(config.model).expanduser()
    return resolver, resolver.locate(here if here.exists() else config.model)


def _write(model: ResolvedModel, ctx: StageContext[BaseConfig]) -> None:
    if model.file is not None:
        from platen.models.gguf_import import import_gguf

        with ctx.progress.task("importing", unit="B") as task:
            import_gguf(model.path, ctx.out, report=lambda done, total: task.update(done, total=total))
        return
    if model.form != BUNDLE:
        raise BundleError(
            f"base: {shown(ctx.config.model)} is {model}, whose weights can't be taken further",
            hint="Name the bundle that it was made of.",
        )
    for file in _bundle_files(model.path):
        target = ctx.out / file.relative_to(model.path)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)


def _bundle_files(folder: Path) -> list[Path]:
    """What of a folder is the model: weights, configs, tokenizer, templates, licence."""
    named = {folder / name for name in tokenizer_files(folder)}
    beside = {path for path in folder.iterdir() if path.suffix in _COPIED or path.stem in _NAMES}
    return sorted(path for path in named | beside if path.is_file() and path.name != "manifest.json")


def _gguf_files(file: Path) -> Iterator[Path]:
    """The file and, of a model in several, the others."""
    from platen.models.gguf import GgufModel

    return (shard.path for shard in GgufModel.open(file).shards)
