"""The models that a project has registered, as `models.resolve` asks for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from platen.core.errors import ArtifactError
from platen.models.resolve import RegisteredModel

if TYPE_CHECKING:
    from platen.pipeline.runner import Pipeline
    from platen.registry.version import Version


class ProjectModels:
    """Versions in a project's registry. `opened` opens the pipeline, when the first name is asked for."""

    def __init__(self, opened: Callable[[], Pipeline]) -> None:
        self._opened = opened

    @cached_property
    def pipeline(self) -> Pipeline:
        return self._opened()

    @property
    def has_released(self) -> bool:
        """Whether the project's own model has any version."""
        return bool(self.pipeline.registry.versions(self._own))

    def find(self, reference: str | None) -> RegisteredModel:
        """A version with its bundle's folder, then those of its compiled forms, the newest first.

        One of them is enough: the bundle itself may be gone. Raises as `RegisteredModels.find`.
        """
        from platen.compress.compile import compiled_forms

        version = self._version(reference)
        bundle = self._bundle(version)
        forms = [form.path for form in compiled_forms(self.pipeline.store, version.artifact or "")]
        if bundle is None and not forms:
            raise ArtifactError(
                f"the bundle of {version.name} is gone: {version.artifact or version.source}",
                hint="platen run",
            )
        folders = (*(() if bundle is None else (bundle,)), *forms)
        return RegisteredModel(version.model, version.name, folders)

    @property
    def _own(self) -> str:
        return self.pipeline.project.released_as

    def _version(self, reference: str | None) -> Version:
        if reference is None and not self.has_released:
            self.pipeline.project.require_model()  # without it there never will be one: that is what to say
        model, _, version = (reference or self._own).partition("@")
        return self.pipeline.registry.get(model, version or "production")

    def _bundle(self, version: Version) -> Path | None:
        name, _, fingerprint = (version.artifact or "").partition("/")
        artifact = self.pipeline.store.find(name, fingerprint) if fingerprint else None
        if artifact is not None:
            return artifact.path
        return Path(version.source) if Path(version.source).is_dir() else None
