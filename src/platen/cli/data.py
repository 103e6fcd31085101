"""`platen data`: read any source to JSON lines, pull a Slack workspace, and what other modules add."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from platen.cli import data_diff, data_label
from platen.core.errors import ConfigError, complaint
from platen.core.outputs import check_file, check_folder
from platen.core.wording import counted

if TYPE_CHECKING:
    from platen.data.config import DataConfig
    from platen.data.intake import Intake
    from platen.data.sourcefile import SourceFile

app = typer.Typer(no_args_is_help=True)


@app.callback()
def data() -> None:
    """Look at what a source gives, label texts, compare versions of an instruction set.

    Examples:

      platen data read examples/shakespeare/corpus --limit 2
    """


app.command()(data_label.label)
app.command()(data_label.labels)
app.command()(data_diff.diff)


@app.command()
def read(
    source: Annotated[str, typer.Argument(help="A file, folder, glob or URL, as `path` in data.sources.")],
    format: Annotated[str | None, typer.Option(help="How to read it; default: by the name's suffix.")] = None,
    text: Annotated[str, typer.Option(help="Key or column that holds the text.")] = "text",
    encoding: Annotated[str, typer.Option(help="Encoding of text files.")] = "utf-8",
    query: Annotated[str | None, typer.Option(help="sql: the SELECT to read.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="slack: keep only theirs; repeatable.")] = None,
    channel: Annotated[list[str] | None, typer.Option(help="slack: only these; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents at most.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write documents here; default: standard output.")] = None,
    quarantine: Annotated[
        Path | None, typer.Option(help="Put aside here what can't be read; a new file, made only if needed.")
    ] = None,
) -> None:
    """Print a source's documents as JSON lines, then on standard error what could not be read.

    Examples:

      platen data read examples/shakespeare/corpus --limit 2

      platen data read export.zip --format slack --user anna --out anna.jsonl

      platen data read sqlite:///desk.db --format sql --query 'SELECT body FROM ticket' --text body
    """
    from platen.data.intake import Intake
    from platen.data.sources import find_files

    if out is not None:
        check_file(out, "--out")
    if quarantine is not None:
        if quarantine.exists():
            raise ConfigError(f"{quarantine} exists already", hint="Give --quarantine another name.")
        check_file(quarantine, "--quarantine")
    config = source_config(
        path=source,
        format="sql" if query and format is None else format,
        text=text,
        encoding=encoding,
        query=query,
        users=tuple(user or ()),
        channels=tuple(channel or ()),
    )
    files = find_files(Path.cwd(), config)
    with ExitStack() as things:
        intake = things.enter_context(Intake(config.on_error, quarantine))
        stream = things.enter_context(out.open("w", encoding="utf-8")) if out else sys.stdout
        count = _print_documents(files, intake, limit, stream)
        if limit is None or count < limit:
            intake.check()
    print(reading_summary(count, intake, quarantine), file=sys.stderr)


@app.command()
def slack(
    out: Annotated[Path, typer.Option("--out", help="Folder that gets the shape of a Slack export.")],
    channel: Annotated[list[str] | None, typer.Option(help="Name or id; repeatable. Default: all.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="public, private, dm or group-dm; repeatable. Default: all.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only messages from this day (UTC) on.")
    ] = None,
    look_back: Annotated[
        float,
        typer.Option(min=0, help="Days that a further pull reads again, for edits and replies."),
    ] = 30.0,
) -> None:
    """Pull a Slack workspace through its API, with the token in the variable SLACK_TOKEN.

    Broken off, the same command goes on where it stopped; once finished, it adds what is new. The folder is
    read with `format: slack`.

    Examples:

      platen data slack --out slack

      platen data slack --out slack --kind public --channel help-desk --since 2026-01-01
    """
    from platen.cli.console import ConsoleObserver
    from platen.data.slack.client import SlackClient
    from platen.data.slack.pull import Wanted, pull

    check_folder(out)
    names = tuple(name.removeprefix("#") for name in channel or ())
    config = source_config(path=str(out), format="slack", channels=names, **({"kinds": kind} if kind else {}))
    begin = since.replace(tzinfo=UTC).timestamp() if since else 0.0
    client = SlackClient.from_environment()
    wanted = Wanted(config.sources[0].kinds, names, begin, look_back)
    pulled = pull(client, out, wanted, ConsoleObserver())
    for problem in pulled.problems:
        print(f"{problem.detail}\n  → {problem.hint}", file=sys.stderr)
    print(
        f"{counted(pulled.messages, 'message')} of {counted(pulled.users, 'person', 'people')} in "
        f"{counted(pulled.channels, 'channel')}"
        + (f", {pulled.new:,} of them new" if pulled.new < pulled.messages else "")
        + f": {out}"
    )


def source_config(**source: Any) -> DataConfig:
    """A configuration with one source, whose broken records are put aside. Raises ConfigError."""
    from pydantic import ValidationError

    from platen.data.config import DataConfig

    try:
        return DataConfig.model_validate({"sources": (source,), "on_error": "quarantine"})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][2:3])
        raise ConfigError(f"--{where}: {complaint(first)}" if where else complaint(first)) from None


def _print_documents(files: Iterable[SourceFile], intake: Intake, limit: int | None, stream: Any) -> int:
    count = 0
    for file in files:
        for document in intake.documents(file):
            stream.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")
            count += 1
            if count == limit:
                return count
    return count


def reading_summary(count: int, intake: Intake, quarantine: Path | None) -> str:
    """How many documents there were, and what of the source was none."""
    parts = [counted(count, "document")]
    broken = ", ".join(f"{number} {reason}" for reason, number in intake.quarantined.most_common())
    left_out = ", ".join(f"{number} {reason}" for reason, number in intake.left_out.most_common())
    if broken:
        where = "can't be read (--quarantine FILE says which)" if quarantine is None else f"in {quarantine}"
        parts.append(f"{where}: {broken}")
    parts += [f"left out: {left_out}"] if left_out else []
    return "; ".join(parts)
