"""`platen show`: one artifact, from its metrics back to the source files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import HERE, ProjectOption, open_pipeline
from platen.core.errors import ArtifactError

if TYPE_CHECKING:
    from rich.tree import Tree

    from platen.core.artifacts import Manifest
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
    from rich.markup import escape
    from rich.tree import Tree

    from platen.cli.console import human_size, human_time

    # Lines go on beyond the terminal's edge: a path or hash cut short or broken in two can't be copied.
    console = Console(highlight=False, soft_wrap=True)
    found = pipeline.store.find(manifest.name, manifest.fingerprint)
    facts = {
        "artifact": f"{manifest.ref} ({manifest.kind})",
        "where": str(found.path) if found else pipeline.store.shown,
        "made": f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC in {human_time(manifest.duration_s)}",
        "with": ", ".join(f"{name} {version}" for name, version in manifest.made_with.items()),
    }
    rows = [*facts.items(), *((key, f"{value:,.6g}") for key, value in manifest.metrics.items())]
    rows += manifest.notes.items()
    width = max(len(key) for key, _ in rows)
    for key, value in rows:
        console.print(f"[bold]{escape(key):<{width}}[/]  {escape(value)}")
    console.print(f"\n[bold]{'size':>9}  {'sha256':<16}  file[/]")
    for entry in manifest.files:
        console.print(f"{human_size(entry.size):>9}  {entry.sha256[:16]}  {escape(entry.path)}")
    tree = Tree("\n[bold]lineage[/]")
    _grow(tree, manifest, by_ref, set())
    console.print(tree)
    plots = [str(found.path / e.path) for e in manifest.files if e.path.endswith(".png")] if found else []
    for plot in plots:
        console.print(f"plot  file://{escape(plot)}")


def _grow(tree: Tree, manifest: Manifest, by_ref: dict[str, Manifest], shown: set[str]) -> None:
    from rich.markup import escape

    if manifest.ref in shown:
        tree.add(f"{manifest.ref} [dim](above)[/]")
        return
    shown.add(manifest.ref)
    branch = tree.add(f"{manifest.ref} [dim]{manifest.kind}[/]")
    for source in manifest.sources:
        branch.add(f"{escape(source.path)} [dim]{source.sha256[:12]}[/]")
    for role, ref in manifest.inputs.items():
        if ref in by_ref:
            _grow(branch, by_ref[ref], by_ref, shown)
        else:
            branch.add(f"{role}: {ref} [yellow]removed[/]")
