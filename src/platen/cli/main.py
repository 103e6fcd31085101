"""The `platen` command: it gathers the commands and turns a PlatenError into its message and exit code.

Command modules import nothing heavy at their top, so that `platen --help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from platen import __version__
from platen.cli import (
    baselines,
    bench,
    chat,
    compile,
    data,
    doctor,
    embed,
    gc,
    generate,
    keys,
    models,
    new,
    plan,
    run,
    schema,
    serve,
    show,
    status,
    tokens,
    traffic,
    ui,
)
from platen.cli.failures import describe_failure
from platen.core.errors import PlatenError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From raw text to a language model in production: one file, one command.",
    epilog="Start here:  platen new hello  ·  platen run hello --serve",
)
for module in (new, run, status, show, compile, serve, chat, generate, plan, doctor, ui, gc, schema):
    app.command(name=module.__name__.rpartition(".")[2])(module.command)
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
app.add_typer(keys.app, name="keys")
app.add_typer(baselines.app, name="baselines")
app.add_typer(bench.app, name="bench")
app.add_typer(traffic.app, name="traffic")
app.add_typer(tokens.app, name="tokens")
app.add_typer(embed.app, name="embed")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"platen {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name="platen")
    except PlatenError as error:
        print(f"platen: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:
        message, code = describe_failure(error)
        print(f"platen: {message}", file=sys.stderr)
        sys.exit(code)
