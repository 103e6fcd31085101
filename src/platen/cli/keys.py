"""`platen keys`: make, list and revoke the API keys of a project's server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import HERE, ProjectOption
from platen.core.errors import ConfigError
from platen.serve.access.keys import Priority, Scope

if TYPE_CHECKING:
    from platen.serve.access.keys import ApiKey
    from platen.serve.access.keystore import KeyStore, Spent

app = typer.Typer(no_args_is_help=True)


@app.callback()
def keys() -> None:
    """Make, list and revoke API keys. A server asks for them with `serve.keys: required`.

    Examples:

      platen keys create alice -p examples/shakespeare

      platen keys list -p examples/shakespeare

      platen keys revoke alice -p examples/shakespeare
    """


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is called; unique among keys in use.")],
    project: ProjectOption = HERE,
    tenant: Annotated[
        str | None, typer.Option(help="Whose it is: tenants share the server fairly. Default: the name.")
    ] = None,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may do; repeatable. Default: infer and models.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model it may use, or a pattern; repeatable. Default: all.")
    ] = None,
    expires: Annotated[int | None, typer.Option(min=1, metavar="DAYS", help="Days it is valid.")] = None,
    priority: Annotated[Priority, typer.Option(help="Higher goes first when the server is busy.")] = "normal",
    requests: Annotated[int | None, typer.Option(min=1, help="Requests a minute.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens a minute, read and written.")] = None,
    token_budget: Annotated[int | None, typer.Option(min=1, help="Tokens a calendar month.")] = None,
    money_budget: Annotated[
        float | None, typer.Option(min=0, help="Money a calendar month, at `serve.prices`.")
    ] = None,
) -> None:
    """Make a key and show it, this one time.

    Examples:

      platen keys create alice

      platen keys create batch-jobs --tenant research --priority low --tokens 100000 --expires 90

      platen keys create prometheus --scope metrics
    """
    from platen.serve.access.keys import Grant, Limits

    grant = Grant(
        name=_label(name, "name"),
        tenant=_label(tenant or name, "--tenant"),
        scopes=frozenset(scope or (Scope.infer, Scope.models)),
        models=tuple(model or ("*",)),
        priority=priority,
        limits=Limits(requests, tokens, token_budget, money_budget),
        expires=None if expires is None else datetime.now(UTC) + timedelta(days=expires),
    )
    key, text = _store(project).create(grant)
    typer.echo(text)
    typer.echo(
        f"This is the key '{key.grant.name}' ({key.id}). It is not kept and not shown again.", err=True
    )


@app.command(name="list")
def list_keys(
    project: ProjectOption = HERE,
    everything: Annotated[bool, typer.Option("--all", help="Also revoked and expired keys.")] = False,
) -> None:
    """List keys, what they allow, and what they have used this month.

    Example:  platen keys list -p examples/shakespeare
    """
    from rich.console import Console
    from rich.table import Table

    from platen.serve.access.keystore import Spent

    found = _store(project).read()
    now = datetime.now(UTC)
    keys = [key for key in found.keys.values() if everything or key.state(now) == "active"]
    if not keys:
        typer.echo("there are no keys; `platen keys create NAME` makes one")
        return
    table = Table(
        "name", "id", "tenant", "may", "priority", "a minute", "this month", "until", box=None, pad_edge=False
    )
    for key in keys:
        table.add_row(*_row(key, found.spent.get(key.id, Spent()), now))
    Console(highlight=False, markup=False).print(table)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its name or id.")],
    project: ProjectOption = HERE,
) -> None:
    """Make a key invalid for good. Running servers refuse it within seconds.

    Example:  platen keys revoke alice
    """
    revoked = _store(project).revoke(key)
    typer.echo(f"the key '{revoked.grant.name}' ({revoked.id}) is revoked")


def _store(project: Path) -> KeyStore:
    from platen.project.file import load_service
    from platen.serve.access.keystore import KeyStore

    return KeyStore(load_service(project).open_state())


def _label(text: str, where: str) -> str:
    if not text.strip() or len(text) > 100 or not text.isprintable():
        raise ConfigError(f"{where}: {text!r} is no name", hint="Use 1 to 100 printable characters.")
    return text


def _row(key: ApiKey, spent: Spent, now: datetime) -> list[str]:
    from platen.cli.console import human_count

    grant, limits = key.grant, key.grant.limits
    a_minute = [
        f"{human_count(limit)} {what}"
        for limit, what in ((limits.requests_per_minute, "requests"), (limits.tokens_per_minute, "tokens"))
        if limit is not None
    ]
    used = f"{human_count(spent.tokens)}" + (f" of {human_count(limits.tokens)}" if limits.tokens else "")
    used += " tokens"
    if spent.money or limits.money is not None:
        used += f", {spent.money:.2f}" + (f" of {limits.money:.2f}" if limits.money is not None else "")
    state = key.state(now)
    until = f"{grant.expires:%Y-%m-%d}" if grant.expires else ""
    may = ", ".join(sorted(grant.scopes)) + (
        "" if grant.models == ("*",) else f" ({', '.join(grant.models)})"
    )
    return [
        grant.name,
        key.id,
        grant.tenant,
        may,
        grant.priority,
        ", ".join(a_minute),
        used,
        until if state == "active" else state,
    ]
