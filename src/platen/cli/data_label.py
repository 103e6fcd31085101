"""`platen data label` and `platen data labels`: a page to judge texts on, and what was judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.core.errors import ConfigError, DataError
from platen.core.outputs import check_file

if TYPE_CHECKING:
    from platen.data.labelling.store import LabelStore

DbOption = Annotated[Path, typer.Option("--db", help="The file that keeps items and judgements.")]


def label(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="JSON lines, an instruction set's split, or an export of doccano or Label Studio. "
            "Left out: what is in the file of --db."
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="label, review (accept, correct, reject) or compare.")] = "label",
    labels: Annotated[
        list[str] | None, typer.Option("--label", help="A label; repeatable. Default: the seven speech acts.")
    ] = None,
    db: DbOption = Path("labels.db"),
    suggest: Annotated[
        str | None, typer.Option(help="Show suggestions: `rules`, or the folder of a classifier or a model.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="What stands above the page.")] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")
    ] = 8090,
) -> None:
    """Serve a page to label, review or compare on, for any number of annotators.

    Every judgement is on the disk before the page shows it as done. Stop with Ctrl-C and go on at any time.

    Examples:

      platen data label messages.jsonl --suggest rules

      platen data label answers.jsonl --task review --db answers.db
    """
    from platen.data.labelling.formats import read_items
    from platen.data.labelling.items import TASKS, task_set
    from platen.data.labelling.serving import serve_labelling
    from platen.data.labelling.store import LabelStore
    from platen.data.labelling.suggesting import suggest as suggestions_by

    if file is None and not db.is_file():
        raise ConfigError("there is nothing to label", hint="platen data label FILE")
    check_file(db, "--db")
    wanted = next((one for one in TASKS if one == task), None)
    if wanted is None:
        raise ConfigError(f"--task: {task!r} is no task", hint=f"Tasks: {', '.join(TASKS)}.")
    imported = read_items(file, wanted) if file is not None else None
    store = LabelStore(db)
    try:
        there = store.tasks()
        if imported is not None or there is None:
            asked = task_set(title or (file.stem if file else "Labels"), wanted, tuple(labels or ()))
            store.set_up(asked)
        else:
            asked = there
        if imported is not None:
            new = store.add_items(imported.items, imported.judgements)
            typer.echo(f"{new} new items, {len(store.items())} in all")
        if suggest is not None:
            store.suggest(suggestions_by(suggest, asked, store.items()))
        serve_labelling(store, asked, port, lambda url: typer.echo(f"Labelling at {url}   (Ctrl-C ends it)"))
    finally:
        store.close()


def labels(
    db: Annotated[Path, typer.Argument(help="The file that `platen data label` keeps.")] = Path("labels.db"),
    export: Annotated[
        str | None, typer.Option(help="Print all judgements as jsonl, doccano or label-studio.")
    ] = None,
    config: Annotated[
        bool, typer.Option("--label-studio-config", help="Print the labelling interface for Label Studio.")
    ] = False,
    project: Annotated[
        Path | None,
        typer.Option("--project", "-p", help="Put them into this project's store, as an artifact."),
    ] = None,
) -> None:
    """Show how far annotators agree, or export what they decided.

    Examples:

      platen data labels labels.db

      platen data labels labels.db --export jsonl > labels.jsonl
    """
    from platen.data.labelling.artifact import export_artifact, export_text
    from platen.data.labelling.formats import FORMATS, label_studio_config
    from platen.data.labelling.store import LabelStore

    if not db.is_file():
        raise DataError(f"there is no file {db}", hint="platen data label FILE makes one")
    store = LabelStore(db)
    try:
        if export is not None:
            formats = [format for format in FORMATS if format == export]
            if not formats:
                raise ConfigError(
                    f"--export: {export!r} is no format", hint=f"Formats: {', '.join(FORMATS)}."
                )
            typer.echo(export_text(store, formats[0]), nl=False)
        elif config:
            tasks = store.tasks()
            if tasks is None:
                raise ConfigError(f"{db} asks nothing yet", hint="platen data label FILE")
            typer.echo(label_studio_config(tasks), nl=False)
        elif project is not None:
            from platen.cli.options import open_pipeline

            artifact = export_artifact(store, open_pipeline(project).store)
            typer.echo(f"{artifact.manifest.ref}: {artifact.path}")
        else:
            _show(store)
    finally:
        store.close()


def _show(store: LabelStore) -> None:
    from rich.console import Console
    from rich.table import Table

    from platen.data.labelling.agreement import agreement, ratings_of

    judgements = store.judgements()
    found = agreement(ratings_of(judgements))
    figure = "can't be told" if found.alpha is None else f"{found.alpha:.3f}"
    typer.echo(f"{len(store.items())} items, {found.items} judged, {found.shared_items} by several")
    typer.echo(f"Krippendorff's alpha: {figure}; disagreed: {len(found.disagreed)}")
    if found.pairs:
        table = Table("annotators", "items", "alike", "Cohen's kappa", box=None, pad_edge=False)
        for pair in found.pairs:
            kappa = "–" if pair.kappa is None else f"{pair.kappa:.3f}"
            table.add_row(f"{pair.first}, {pair.second}", str(pair.items), f"{pair.observed:.0%}", kappa)
        Console(highlight=False, markup=False).print(table)
