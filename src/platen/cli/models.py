"""`platen models`: what is registered; promote and delete; import a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import HERE, ProjectOption, open_pipeline
from platen.core.errors import ConfigError

if TYPE_CHECKING:
    from platen.pipeline.runner import Pipeline
    from platen.registry.version import Version
    from platen.registry.versions import Registry

app = typer.Typer(no_args_is_help=False, invoke_without_command=True)
VersionArgument = Annotated[
    str, typer.Argument(metavar="VERSION", help="MODEL@NUMBER, MODEL@ALIAS or a number.")
]

SameProjectOption = Annotated[
    Path | None, typer.Option("--project", "-p", help="The project, if not given before the command.")
]


@app.callback()
def list_versions(ctx: typer.Context, project: ProjectOption = HERE) -> None:
    """List registered versions; promote or delete one.

    Examples:

      platen models -p examples/shakespeare

      platen models promote shakespeare@2 production

      platen models delete shakespeare@1
    """
    ctx.obj = project
    if ctx.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table

    versions = open_pipeline(project).registry.versions()
    if not versions:
        typer.echo("nothing is registered yet; `platen run` registers a model that passed its gate")
        return
    table = Table(
        "version",
        "aliases",
        "registered (UTC)",
        "bits per byte",
        "fingerprint",
        "bundle",
        box=None,
        pad_edge=False,
    )
    for version in versions:
        quality = version.metrics.get("bits_per_byte")
        table.add_row(
            version.name,
            ", ".join(version.aliases),
            f"{version.created_at:%Y-%m-%d %H:%M}",
            f"{quality:.4f}" if quality is not None else "",
            version.content[:12],
            version.artifact or version.source,
        )
    Console(highlight=False).print(table)


@app.command()
def find(
    ctx: typer.Context,
    fingerprint: Annotated[
        str, typer.Argument(help="As a server tells it: x-platen-version, or system_fingerprint (fp_…).")
    ],
    project: SameProjectOption = None,
) -> None:
    """Say which registered version a running server's response came from.

    Example:  platen models find fp_3f2a91c0de11 -p examples/shakespeare
    """
    for version in open_pipeline(project or ctx.obj).registry.with_content(fingerprint):
        aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
        typer.echo(f"{version.name}{aliases}  {version.content}  {version.artifact or version.source}")


@app.command()
def promote(
    ctx: typer.Context,
    version: VersionArgument,
    alias: Annotated[str, typer.Argument(help="candidate or production")] = "production",
    override: Annotated[bool, typer.Option("--override", help="Although the gate failed.")] = False,
    reason: Annotated[str, typer.Option(help="Why the gate is overridden; kept with the version.")] = "",
    project: SameProjectOption = None,
) -> None:
    """Give a version an alias, through the project's gate or an override that says why.

    Example:  platen models promote shakespeare@3 production --override --reason "hotfix for the demo"
    """
    from platen.project.stages import declared_metrics
    from platen.registry.gate import judge

    if override != bool(reason.strip()):
        raise ConfigError("--override and --reason go together", hint="--override --reason 'why'")
    pipeline, registry, found = _open(project or ctx.obj, version)
    outcome = judge(
        pipeline.project.gate,
        found.metrics,
        registry.production(found.model),
        declared_metrics(),
        fingerprint=found.fingerprint,
        text=found.evaluated_text,
    )
    for line in outcome.lines:
        typer.echo(line)
    promoted = registry.promote(found, alias, outcome, override_reason=reason or None)
    typer.echo(f"{promoted.name} is {alias}")


@app.command()
def delete(
    ctx: typer.Context,
    version: VersionArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    project: SameProjectOption = None,
) -> None:
    """Delete a version that no alias points to; `platen gc` then frees its artifacts.

    Example:  platen models delete shakespeare@1
    """
    _, registry, found = _open(project or ctx.obj, version)
    if not yes:
        typer.confirm(f"Delete {found.name}?", abort=True)
    registry.delete(found)
    typer.echo(f"{found.name} is deleted")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A GGUF file; the first of several.")],
    out: Annotated[Path, typer.Option(help="The new folder.")],
    dtype: Annotated[
        str, typer.Option(help="How weights are kept: bfloat16, float16 or float32.")
    ] = "bfloat16",
    verify: Annotated[
        bool, typer.Option(help="Compare its predictions with llama.cpp's, if that is installed.")
    ] = True,
) -> None:
    """Make a bundle of a GGUF file: weights dequantized, tokenizer, chat template, end tokens.

    A bundle runs on every engine and can be trained further; to serve the file alone, platen serve FILE.gguf.

    Example:  platen models import smollm2.gguf --out ./smollm2
    """
    import importlib.util

    from platen.cli.console import ConsoleObserver, human_size
    from platen.core.files import replaced_folder
    from platen.models.gguf_import import import_gguf

    with replaced_folder(out) as new:
        with ConsoleObserver().task("importing", unit="B") as task:
            config = import_gguf(
                file, new, dtype=dtype, report=lambda done, total: task.update(done, total=total)
            )
        if verify and importlib.util.find_spec("llama_cpp") is not None:
            from platen.engines.llamacpp.agreement import require_agreement

            typer.echo(f"beside llama.cpp: {require_agreement(file, new)}")
        elif verify:
            typer.echo("platen: not compared with llama.cpp, which is not installed: extra [edge]", err=True)
    size = sum(one.stat().st_size for one in out.iterdir())
    typer.echo(f"{out}: {config.to_hf()['architectures'][0]}, {dtype}, {human_size(size)}")
    typer.echo(f"Next:  platen serve {out if out.is_absolute() else f'./{out}'}")


def _open(project: Path, wanted: str) -> tuple[Pipeline, Registry, Version]:
    pipeline = open_pipeline(project)
    model, _, which = wanted.rpartition("@")
    registry = pipeline.registry
    return (
        pipeline,
        registry,
        registry.get(model or pipeline.project.released_as, which),
    )
