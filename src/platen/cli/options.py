"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from platen.engines.protocol import SamplingParams
    from platen.models.generation_config import SamplingDefaults
    from platen.models.resolve import ResolvedModel, Resolver
    from platen.pipeline.runner import Pipeline

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
DeviceOption = Annotated[
    str | None,
    typer.Option(help="Where PyTorch computes: auto (a GPU if there is one), cpu, cuda, cuda:1, mps."),
]
DTypeOption = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option(help="What it computes in; auto: float32, or with vLLM the model's own."),
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


def project_resolver(project: Path) -> Resolver:
    """Understands references, a project's registered models among them; the project is opened when one of
    those is asked for."""
    from platen.models.resolve import Resolver
    from platen.pipeline.registered import ProjectModels

    return Resolver(ProjectModels(lambda: open_pipeline(project)))


def resolved_model(model: str | None, project: Path, *, graph: str | None = None) -> ResolvedModel:
    """The model that an argument names (folder, URL, Hub name, MODEL@VERSION; None: production).

    `graph` is a file to fetch with a Hub model's. Raises as `Resolver.resolve`.
    """
    return project_resolver(project).resolve(model, graph=graph)


def resolved_bundle(model: str | None, project: Path) -> ResolvedModel:
    """The same, of a model whose bundle is there. Raises BundleError where only compiled forms are."""
    from platen.core.errors import BundleError
    from platen.models.resolve import BUNDLE

    found = resolved_model(model, project)
    if found.form != BUNDLE:
        raise BundleError(
            f"{found.path} is no bundle: there is only {found}", hint="Give the bundle's own folder."
        )
    return found
