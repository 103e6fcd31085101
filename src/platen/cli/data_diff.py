"""`platen data diff`: what changed between two versions of an instruction set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import HERE, ProjectOption
from platen.core.errors import ConfigError

if TYPE_CHECKING:
    from platen.data.instruct.versions import Difference

_SHOWN = 10


def diff(
    before: Annotated[
        str | None,
        typer.Argument(help="A folder or an artifact such as instruct/3f2a. Default: the last but one."),
    ] = None,
    after: Annotated[str | None, typer.Argument(help="Likewise. Default: the last one made.")] = None,
    project: ProjectOption = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything, for programs.")] = False,
) -> None:
    """Compare two versions of an instruction set: examples added, removed and changed, and the speech acts.

    Examples:

      platen data diff

      platen data diff instruct/3f2a instruct/91c0 --json
    """
    from platen.data.instruct.versions import as_json as to_json
    from platen.data.instruct.versions import difference

    found = difference(*_folders(before, after, project))
    if as_json:
        typer.echo(to_json(found))
    else:
        _show(found)


def _folders(before: str | None, after: str | None, project: Path) -> tuple[Path, Path]:
    if before and after and Path(before).is_dir() and Path(after).is_dir():
        return Path(before), Path(after)
    from platen.cli.options import open_pipeline
    from platen.cli.show import find_manifest

    store = open_pipeline(project).store
    manifests = [manifest for manifest in store.manifests() if manifest.kind == "instructions"]
    if before is None:
        if len(manifests) < 2:
            raise ConfigError(
                f"{len(manifests)} versions of the instruction set are in the store",
                hint="platen run instruct",
            )
        chosen = manifests[-2:]
    else:
        chosen = [find_manifest(manifests, before), find_manifest(manifests, after or "instruct")]
    first, second = (store.find(manifest.name, manifest.fingerprint) for manifest in chosen)
    assert first is not None
    assert second is not None
    return first.path, second.path


def _show(found: Difference) -> None:
    typer.echo(found.summary())
    for mark, examples in (("+", found.added), ("-", found.removed)):
        for example in examples[:_SHOWN]:
            typer.echo(f"{mark} {example.id}  {_line(example.messages[-2].content)}")
        if len(examples) > _SHOWN:
            typer.echo(f"{mark} … and {len(examples) - _SHOWN} more")
    for change in found.changed[:_SHOWN]:
        typer.echo(f"~ {change.id}  {', '.join(change.what)}: {_line(change.before)} → {_line(change.after)}")
    if len(found.changed) > _SHOWN:
        typer.echo(f"~ … and {len(found.changed) - _SHOWN} more")
    for act, (was, now) in found.acts.items():
        if was != now:
            typer.echo(f"  {act}: {was} → {now}")


def _line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else flat[:59] + "…"
