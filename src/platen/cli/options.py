"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from platen.core.errors import ArtifactError

if TYPE_CHECKING:
    from platen.engines.protocol import SamplingParams
    from platen.models.generation_config import SamplingDefaults
    from platen.pipeline.runner import Pipeline
    from platen.registry.version import Version

ProjectOption = Annotated[
    Path, typer.Option("--project", "-p", help="The project: a folder with a platen.yaml, or the file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of platen.yaml; may be repeated."),
]
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens at most.")]
TemperatureOption = Annotated[
    float | None,
    typer.Option(min=0, max=2, help="0 always takes the likeliest token. Default: the model's own, or 0.8."),
]
TopPOption = Annotated[
    float | None,
    typer.Option("--top-p", min=0.001, max=1, help="Nucleus sampling; 1 is off. Default: the model's own."),
]
TopKOption = Annotated[
    int | None,
    typer.Option("--top-k", min=0, help="Only the k likeliest tokens; 0 is off. Default: the model's own."),
]
SeedOption = Annotated[int | None, typer.Option(help="The same seed gives the same text.")]
HERE = Path(".")


def sampling_params(
    own: SamplingDefaults,
    *,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None = None,
    **given: Any,
) -> SamplingParams:
    """What was given in the command line, else what the model's generation_config.json says."""
    from platen.engines.protocol import SamplingParams
    from platen.models.generation_config import first_given

    return SamplingParams(
        temperature=first_given(temperature, own.temperature, 0.8),
        top_p=first_given(top_p, own.top_p, 1.0),
        top_k=first_given(top_k, own.top_k, 0),
        min_p=first_given(None, own.min_p, 0.0),
        repetition_penalty=first_given(None, own.repetition_penalty, 1.0),
        logit_bias=own.biases(),
        **given,
    )


def open_pipeline(project: Path, overrides: list[str] | None = None) -> Pipeline:
    """The project's pipeline. Raises ConfigError."""
    from platen.pipeline.runner import Pipeline
    from platen.project.file import load_project

    return Pipeline(load_project(project, overrides or ()))


def looks_like_project(text: str) -> bool:
    """Whether a positional argument names a project rather than a stage."""
    path = Path(text)
    return path.is_dir() or path.suffix in (".yaml", ".yml") or "/" in text


def released_bundle(pipeline: Pipeline, which: str | None = None) -> tuple[Path, str]:
    """Where the bundle of a registered version lies, and its model's name.

    `which` is MODEL@NUMBER, MODEL@ALIAS or MODEL; None is the project's own model in production. Raises
    RegistryError when there is no such version, ArtifactError when its files are gone.
    """
    version = _registered(pipeline, which)
    bundle = _bundle_of(pipeline, version)
    if bundle is None:
        raise _gone(version)
    return bundle, version.model


def released_forms(pipeline: Pipeline, which: str | None = None) -> tuple[list[Path], str]:
    """Like `released_bundle`, and after the bundle's the folders of its compiled forms, the newest first.

    One of them is enough: the bundle itself may be gone.
    """
    from platen.compress.compile import compiled_forms

    version = _registered(pipeline, which)
    bundle = _bundle_of(pipeline, version)
    forms = [form.path for form in compiled_forms(pipeline.store, version.artifact or "")]
    if bundle is None and not forms:
        raise _gone(version)
    return ([bundle] if bundle else []) + forms, version.model


def _registered(pipeline: Pipeline, which: str | None) -> Version:
    own = pipeline.project.register_as.model or pipeline.project.name
    if which is None and not pipeline.registry.versions(own):
        pipeline.project.training()  # without it there never will be a version, and that is what to say
    model, _, version = (which or own).partition("@")
    return pipeline.registry.get(model, version or "production")


def _bundle_of(pipeline: Pipeline, version: Version) -> Path | None:
    name, _, fingerprint = (version.artifact or "").partition("/")
    artifact = pipeline.store.find(name, fingerprint) if fingerprint else None
    if artifact is not None:
        return artifact.path
    return Path(version.source) if Path(version.source).is_dir() else None


def _gone(version: Version) -> ArtifactError:
    return ArtifactError(
        f"the bundle of {version.name} is gone: {version.artifact or version.source}", hint="platen run"
    )


def named_model(model: str | None, project: Path) -> tuple[Path | str, str]:
    """The bundle that an argument names (folder, Hub name, MODEL@VERSION; None: production), and its name.

    Raises as `released_bundle`.
    """
    if model is not None and (Path(model).is_dir() or "/" in model):
        return (Path(model) if Path(model).is_dir() else model), Path(model).resolve().name
    return released_bundle(open_pipeline(project), model)
