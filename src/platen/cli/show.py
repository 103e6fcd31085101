"""`platen show`: one artifact, from its figures back to the source files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import HERE, ProjectOption, open_pipeline
from platen.errors import ArtifactError

if TYPE_CHECKING:
    from rich.tree import Tree

    from platen.artifacts import Manifest
    from platen.pipeline.runner import Pipeline


def command(
    artifact: Annotated[
        str, typer.Argument(help="A stage's name (its newest artifact), NAME/FINGERPRINT, or its beginning.")
    ],
    project: ProjectOption = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check every file against its checksum.")] = False,
) -> None:
    """Show an artifact: manifest, metrics, lineage back to the source files, plots.

    Examples:

      platen show evaluate

      platen show train/3f2a --verify
    """
    pipeline = open_pipeline(project)
    manifests = pipeline.store.manifests()
    manifest = find_manifest(manifests, artifact)
    if as_json:
        typer.echo(manifest.model_dump_json(indent=2))
        return
    _draw(pipeline, manifest, {m.ref: m for m in manifests})
    if verify:
        found = pipeline.store.find(manifest.name, manifest.fingerprint)
        damaged = pipeline.store.verify(found) if found else []
        if damaged:
            raise ArtifactError(
                f"{manifest.ref} is damaged: {', '.join(damaged)}", hint="remove it and run again"
            )
        typer.echo(f"all {len(manifest.files)} files match their checksums")


def find_manifest(manifests: list[Manifest], wanted: str) -> Manifest:
    """The newest artifact of that name or ref. Raises ArtifactError when there is none."""
    name, _, start = wanted.partition("/")
    for manifest in reversed(manifests):
        if manifest.name == name and manifest.fingerprint.startswith(start):
            return manifest
    names = sorted({m.name for m in manifests})
    raise ArtifactError(
        f"no artifact {wanted!r}", hint=f"there is: {', '.join(names)}" if names else "make some: platen run"
    )


def _draw(pipeline: Pipeline, manifest: Manifest, by_ref: dict[str, Manifest]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.tree import Tree

    from platen.cli.console import human_size, human_time

    console = Console(highlight=False)
    found = pipeline.store.find(manifest.name, manifest.fingerprint)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a path or hash cut short can't be copied
    table.add_row("artifact", f"[bold]{manifest.ref}[/] ({manifest.kind})")
    table.add_row("where", str(found.path) if found else pipeline.store.shown)
    table.add_row("made", f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC in {human_time(manifest.duration_s)}")
    table.add_row("with", ", ".join(f"{k} {v}" for k, v in manifest.made_with.items()))
    for key, value in manifest.metrics.items():
        table.add_row(key, f"{value:,.6g}")
    for key, note in manifest.notes.items():
        table.add_row(key, note)
    console.print(table)
    files = Table("file", "size", "sha256", box=None, pad_edge=False)
    for entry in manifest.files:
        files.add_row(entry.path, human_size(entry.size), entry.sha256[:16])
    console.print(files)
    tree = Tree("[bold]lineage[/]")
    _grow(tree, manifest, by_ref, set())
    console.print(tree)
    plots = [str(found.path / e.path) for e in manifest.files if e.path.endswith(".png")] if found else []
    for plot in plots:
        console.print(f"plot  file://{plot}", soft_wrap=True)


def _grow(tree: Tree, manifest: Manifest, by_ref: dict[str, Manifest], shown: set[str]) -> None:
    if manifest.ref in shown:
        tree.add(f"{manifest.ref} [dim](above)[/]")
        return
    shown.add(manifest.ref)
    branch = tree.add(f"{manifest.ref} [dim]{manifest.kind}[/]")
    for source in manifest.sources:
        branch.add(f"{source.path} [dim]{source.sha256[:12]}[/]")
    for role, ref in manifest.inputs.items():
        if ref in by_ref:
            _grow(branch, by_ref[ref], by_ref, shown)
        else:
            branch.add(f"{role}: {ref} [yellow]removed[/]")
