"""`platen compile`: a bundle in the form that a faster engine runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from platen.cli.options import HERE, ProjectOption, resolved_bundle
from platen.core.files import replaced_folder


def command(
    model: Annotated[
        str | None,
        typer.Argument(help="A bundle's folder, Hub name or MODEL@VERSION; default: production."),
    ] = None,
    project: ProjectOption = HERE,
    to: Annotated[str, typer.Option(help="openvino (x86 and Arm CPUs) or gguf (llama.cpp).")] = "openvino",
    weights: Annotated[
        str | None,
        typer.Option(help="openvino: int8, int4, bf16; gguf: q8_0, f16, bf16. Default: the first."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: MODEL-FORM, here.")] = None,
) -> None:
    """Compile a bundle for a CPU engine; `platen serve` then serves the folder it makes.

    Examples:

      platen compile ./my-bundle --to openvino --weights int8 --out my-int8

      platen compile -p examples/shakespeare --out shakespeare-int8

      platen serve ./shakespeare-int8
    """
    from platen.cli.console import human_size
    from platen.compress.compile import compile_bundle

    bundle = resolved_bundle(model, project)
    name = bundle.name.rpartition("/")[2]
    folder = out or Path(f"{name}-{to}" + (f"-{weights}" if weights else ""))
    with replaced_folder(folder) as new:
        compiled = compile_bundle(bundle.path, new, to, weights)
    size = sum(file.stat().st_size for file in folder.iterdir())
    typer.echo(f"{folder}: {compiled.to}, {compiled.weights}, {human_size(size)}")
    typer.echo(
        f"Next:  platen serve ./{folder}" if not folder.is_absolute() else f"Next:  platen serve {folder}"
    )
