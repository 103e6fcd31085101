"""`platen traffic`: see and change what a running server answers with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from platen.serve.access.keys import KEY_VARIABLE

if TYPE_CHECKING:
    from platen.serve.client import AdminClient

app = typer.Typer(no_args_is_help=False, invoke_without_command=True)

UrlOption = Annotated[str, typer.Option(help="The server's address.")]
DEFAULT_URL = "http://127.0.0.1:8000"
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name that clients ask for.")]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A bundle's folder, a Hub name or MODEL@VERSION.")
]


@app.callback()
def show(ctx: typer.Context, url: UrlOption = DEFAULT_URL) -> None:
    """See and change what a running server answers with; no request fails meanwhile.

    A server that asks for keys gets the one in PLATEN_API_KEY.

    Examples:

      platen traffic

      platen traffic swap shakespeare shakespeare@2

      platen traffic canary shakespeare shakespeare@3 --share 0.05

      platen traffic split shakespeare old=shakespeare@2:80 new=shakespeare@3:20
    """
    from platen.serve.client import AdminClient

    client = AdminClient(url, api_key=os.environ.get(KEY_VARIABLE))
    ctx.obj = client
    ctx.call_on_close(client.close)
    if ctx.invoked_subcommand is None:
        _table(client.routes())


@app.command()
def swap(
    ctx: typer.Context,
    name: NameArgument,
    model: ModelArgument,
    reload: Annotated[
        bool, typer.Option("--reload", help="Load it again though the reference is the same.")
    ] = False,
) -> None:
    """Let another model answer to a name, or add one under a new name."""
    _set(ctx.obj, name, {"model": model, "reload": reload})


@app.command()
def split(
    ctx: typer.Context,
    name: NameArgument,
    parts: Annotated[
        list[str], typer.Argument(metavar="LABEL=MODEL[:WEIGHT]...", help="The parts of the split.")
    ],
) -> None:
    """Divide a name's requests between models; a user stays with one."""
    _set(ctx.obj, name, {"variants": [_part(part) for part in parts]})


@app.command()
def canary(
    ctx: typer.Context,
    name: NameArgument,
    model: ModelArgument,
    share: Annotated[float, typer.Option(min=0.001, max=0.999, help="Of the requests.")] = 0.1,
    min_requests: Annotated[int, typer.Option(min=1, help="Answers before it is judged.")] = 20,
    max_error_rate: Annotated[float, typer.Option(min=0, max=1, help="Failed answers, at most.")] = 0.02,
    max_slowdown: Annotated[
        float, typer.Option(min=1, help="Median time for a token, against the stable one's.")
    ] = 1.5,
) -> None:
    """Give a new model a share of a name's requests; it is taken back by itself when it fails or is slow."""
    client: AdminClient = ctx.obj
    spec = {
        "model": model,
        "share": share,
        "min_requests": min_requests,
        "max_error_rate": max_error_rate,
        "max_slowdown": max_slowdown,
    }
    _set(client, name, {"model": client.stable(name), "canary": spec})


@app.command()
def shadow(ctx: typer.Context, name: NameArgument, model: ModelArgument) -> None:
    """Send a copy of a name's requests to a model whose responses are dropped."""
    client: AdminClient = ctx.obj
    _set(client, name, {"model": client.stable(name), "shadow": model})


@app.command()
def stable(ctx: typer.Context, name: NameArgument) -> None:
    """End a split, canary or shadow: the first model answers everything again."""
    client: AdminClient = ctx.obj
    _set(client, name, {"model": client.stable(name)})


@app.command()
def remove(ctx: typer.Context, name: NameArgument) -> None:
    """Let nothing answer to a name any more."""
    client: AdminClient = ctx.obj
    client.remove(name)
    typer.echo(f"nothing answers to {name} any more")


def _set(client: AdminClient, name: str, spec: dict[str, Any]) -> None:
    _table([client.set_route(name, spec)])


def _part(text: str) -> dict[str, Any]:
    label, equals, rest = text.partition("=")
    model, colon, weight = rest.rpartition(":")
    if not equals or not rest:
        raise typer.BadParameter(f"{text!r} should read LABEL=MODEL or LABEL=MODEL:WEIGHT")
    try:
        return {"label": label, "model": model if colon else rest, "weight": float(weight) if colon else 1.0}
    except ValueError:
        raise typer.BadParameter(f"the weight in {text!r} is not a number") from None


def _table(routes: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "name",
        "variant",
        "model",
        "version",
        "share",
        "answered",
        "running",
        "waiting",
        box=None,
        pad_edge=False,
    )
    for column in table.columns:
        column.overflow = "fold"  # references are there to be copied
    notes = []
    for route in routes:
        total = sum(variant["weight"] for variant in route["variants"])
        parts = [(part, f"{part['weight'] / total:.0%}") for part in route["variants"]]
        if route["shadow"]:
            parts.append((route["shadow"], "copies"))
        for part, share in parts:
            figures = (str(part[key]) for key in ("answered", "running", "waiting"))
            table.add_row(route["name"], part["label"], part["model"], part["version"], share, *figures)
        if route["rolled_back"]:
            notes.append(f"{route['name']}: the canary was rolled back: {route['rolled_back']}")
    console = Console(highlight=False)
    console.print(table)
    for note in notes:
        console.print(note, markup=False)
