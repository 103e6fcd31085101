"""`platen bench`: what a server bears, and which engine is fastest on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import HERE, DeviceOption, DTypeOption, ProjectOption
from platen.core.errors import ConfigError
from platen.core.outputs import check_new_folder

if TYPE_CHECKING:
    from platen.engines.benchmark_cache import SpeedMeasurement
    from platen.loadtest.engine_speed import Missing
    from platen.loadtest.load import Run
    from platen.loadtest.load_prompts import Prompts
    from platen.loadtest.load_report import Measured, Report
    from platen.loadtest.records import Slo
    from platen.loadtest.session import Plan

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure a server under traffic, or the engines of this machine.

    Examples:

      platen bench serve http://127.0.0.1:8000 --rate 4 --slo ttft=500ms,tpot=50ms

      platen bench engines ./my-bundle
    """


class Api(StrEnum):
    completions = "completions"
    chat = "chat"


@app.command("serve")
def serve(
    url: Annotated[str, typer.Argument(help="The server's address; any that speaks OpenAI's API.")],
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Open loop: requests/s at random moments (Poisson).")
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Closed loop: users who ask one thing after another."),
    ] = None,
    requests: Annotated[int, typer.Option(min=1, max=1_000_000, help="Requests at most, in each run.")] = 200,
    seconds: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds in which requests are sent, in each run.")
    ] = 60.0,
    prompts: Annotated[
        Path | None, typer.Option(help="JSONL (text, prompt or messages) or text, one prompt a line.")
    ] = None,
    prompt_tokens: Annotated[str, typer.Option(help="Made-up prompts' length: 250 or 100-400.")] = "250",
    output_tokens: Annotated[str, typer.Option(help="Most new tokens: 64 or 16-128.")] = "64",
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Ask for all tokens; Platen and vLLM know it.")
    ] = False,
    api: Annotated[Api, typer.Option(help="Which of OpenAI's APIs.")] = Api.completions,
    model: Annotated[
        str | None, typer.Option(help="Model to ask for; default: the first one served.")
    ] = None,
    slo: Annotated[
        str | None, typer.Option(help="Objectives of each request: ttft=500ms,tpot=50ms,e2e=5s.")
    ] = None,
    find_knee: Annotated[
        bool, typer.Option("--find-knee", help="Search the most traffic of which 95% is within the --slo.")
    ] = False,
    up_to: Annotated[
        float, typer.Option(min=0.01, max=100_000, help="Most traffic the search tries: requests/s or users.")
    ] = 256.0,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds a request may take.")] = 60.0,
    key_env: Annotated[str | None, typer.Option(help="Environment variable with the API key.")] = None,
    seed: Annotated[int, typer.Option(help="Of prompts and arrival times.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report; default: bench-DATE, here.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the measurements as JSON, nothing else.")
    ] = False,
    own: Annotated[
        bool, typer.Option("--i-own-this-server", help="Allow a server that is not on this machine.")
    ] = False,
) -> None:
    """Load a server with traffic and report its latencies and throughput; Ctrl-C reports what there is.

    Without --rate or --users, one user asks. Each run sends at most --requests, within --seconds.

    Examples:

      platen bench serve http://127.0.0.1:8000 --users 8 --requests 100

      platen bench serve http://127.0.0.1:8000 --rate 2 --slo ttft=500ms,tpot=50ms --find-knee
    """
    from platen.data.readers.needs import needs
    from platen.loadtest.load import Load
    from platen.loadtest.load_report import write_report
    from platen.loadtest.session import Plan
    from platen.loadtest.target import Target, check_address

    if rate is not None and users is not None:
        raise ConfigError("--rate and --users exclude each other", hint="a rate is open loop, users closed")
    objectives = _slo(slo)
    if find_knee and objectives is None:
        raise ConfigError("--find-knee needs objectives", hint="for example --slo ttft=500ms,tpot=50ms")
    check_address(url, own=own)
    folder = out or Path(f"bench-{datetime.now():%Y%m%d-%H%M%S}")
    check_new_folder(folder)
    needs("matplotlib", "a load test's plots", "bench")
    asks, name = _prompts(prompts, prompt_tokens, output_tokens)
    users = 1 if rate is None and users is None else users
    if find_knee and up_to < (users or rate or 0):
        raise ConfigError(
            f"--up-to {up_to:g} is below where the search begins", hint="begin lower: --rate or --users"
        )
    plan = Plan(
        target=Target(url, model, api.value, timeout, _key(key_env), ignore_eos),
        prompts=asks,
        load=Load(rate, users, requests, seconds, seed),
        prompts_name=name,
        slo=objectives,
        sweep=find_knee,
        most=up_to,
    )
    report = _run(plan, quiet=as_json)
    page = write_report(report, folder)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        _show(report, page)


def _slo(text: str | None) -> Slo | None:
    from platen.loadtest.records import Slo

    try:
        return Slo.parse(text) if text is not None else None
    except ValueError as error:
        raise ConfigError(f"--slo: {error}", hint="for example --slo ttft=500ms,tpot=50ms") from None


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise ConfigError(f"--key-env: the environment has no {variable}", hint=f"export {variable}=…")
    return os.environ[variable]


def _prompts(file: Path | None, prompt_tokens: str, output_tokens: str) -> tuple[Prompts, str]:
    """What to ask, and how the report calls it."""
    from platen.loadtest.load_prompts import Lengths, Synthetic, read_prompts

    try:
        prompt, output = Lengths.parse(prompt_tokens), Lengths.parse(output_tokens)
    except ValueError as error:
        raise ConfigError(f"lengths: {error}", hint="a length is 250, or 100-400 for a range") from None
    if file is not None:
        return read_prompts(file, output.high), f"{file.name}, up to {output.high} new tokens"
    return Synthetic(prompt, output), f"made up, {prompt_tokens} tokens, {output_tokens} new"


def _run(plan: Plan, *, quiet: bool) -> Report:
    """Run with a bar for each run, and a line after each one of a sweep."""
    from contextlib import ExitStack

    from rich.console import Console

    from platen.cli.console import ConsoleObserver
    from platen.loadtest.session import run_blocking

    observer = ConsoleObserver(Console(highlight=False, quiet=quiet))
    with ExitStack() as stack:
        bar = stack.enter_context(observer.task("sending", total=1, unit="answers"))

        def watch(run: Run) -> None:
            load = run.load
            bar.update(
                run.over, total=_expected(run), note=f"{load} · {len(run.records) - run.over} under way"
            )

        def done(measured: Measured) -> None:
            if plan.sweep:
                share = measured.summary.slo_share
                observer.say(f"{measured.load}: {'–' if share is None else f'{share:.1%}'} within {plan.slo}")

        return run_blocking(plan, watch=watch, done=done)


def _expected(run: Run) -> float:
    """Answers that a run will have, as far as can be told."""
    load = run.load
    if load.rate is not None:
        return max(run.over, min(load.requests, load.rate * load.seconds))
    by_time = run.over * load.seconds / run.elapsed if run.elapsed and run.over else load.requests
    return max(run.over, min(load.requests, by_time))


def _show(report: Report, page: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from platen.loadtest.load_report import TIMES, milliseconds

    console = Console(highlight=False)
    if (one := report.shown) is not None:
        table = Table(
            box=None, title=str(one.load) if len(report.measured) > 1 else None, title_justify="left"
        )
        for heading in ("ms", "mean", "p50", "p90", "p95", "p99"):
            table.add_column(heading, justify="left" if heading == "ms" else "right")
        for key, name in TIMES:
            if spread := getattr(one.summary, key):
                values = (spread.mean, spread.p50, spread.p90, spread.p95, spread.p99)
                table.add_row(name, *map(milliseconds, values))
        console.print(table)
        summary = one.summary
        console.print(
            f"{summary.request_throughput:.4g} requests/s   {summary.output_throughput:.1f} new tokens/s   "
            f"{summary.total_throughput:.1f} tokens/s in all   at most {summary.peak_in_flight} at once",
            soft_wrap=True,
        )
        console.print(
            "   ".join(f"{outcome}: {count}" for outcome, count in summary.outcomes.items()), soft_wrap=True
        )
        if report.slo and summary.slo_share is not None:
            console.print(
                f"goodput {summary.goodput:.4g} requests/s: {summary.slo_share:.1%} within {report.slo}",
                soft_wrap=True,
            )
    if report.interrupted:
        console.print("[yellow]Stopped early[/]: this is what was measured until then.")
    if report.swept:
        console.print(f"[bold]{report.verdict()}[/]", soft_wrap=True)
    console.print(f"report  {page}", markup=False, soft_wrap=True)


@app.command("engines")
def engines(
    model: Annotated[
        str | None,
        typer.Argument(help="A bundle's folder, Hub name or MODEL@VERSION; default: production."),
    ] = None,
    project: ProjectOption = HERE,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    again: Annotated[bool, typer.Option("--again", help="Measure what was measured before, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure each engine that can run a bundle on this machine; `platen serve` then takes the fastest.

    Speeds are kept for this machine, these versions and networks of this shape. Forms that are missing are
    compiled into the cache folder ($PLATEN_CACHE).

    Examples:

      platen bench engines ./my-bundle

      platen bench engines -p examples/shakespeare
    """
    from platen.engines.threads import prepare_process

    prepare_process()
    from platen.cli.options import resolved_bundle
    from platen.engines.benchmark_cache import AT_ONCE, SpeedMeasurement
    from platen.engines.options import EngineOptions
    from platen.loadtest.engine_speed import measure_engines

    bundle = resolved_bundle(model, project)
    options = EngineOptions(max_concurrent=AT_ONCE, device=device or "auto", dtype=dtype or "auto")
    rows = measure_engines(bundle, options, again=again, tell=lambda text: typer.echo(f"{text} …", err=True))
    if as_json:
        found = [asdict(row) for row in rows if isinstance(row, SpeedMeasurement)]
        missing = {row.engine: row.why for row in rows if not isinstance(row, SpeedMeasurement)}
        typer.echo(json.dumps({"figures": found, "missing": missing}, indent=2))
        return
    _show_engines(rows)


def _show_engines(rows: Sequence[SpeedMeasurement | Missing]) -> None:
    from rich.console import Console
    from rich.table import Table

    from platen.cli.console import human_size
    from platen.engines.benchmark_cache import AT_ONCE, SpeedMeasurement

    table = Table(box=None)
    table.add_column("engine")
    table.add_column("weights")
    for heading in (
        "prefill, alone",
        "decode, alone",
        f"prefill, {AT_ONCE}",
        f"decode, {AT_ONCE}",
        "memory",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        if isinstance(row, SpeedMeasurement):
            speeds = (row.prefill_alone, row.decode_alone, row.prefill_crowded, row.decode_crowded)
            table.add_row(
                row.engine, row.weights, *(f"{s:,.0f}" for s in speeds), human_size(row.memory_bytes)
            )
        else:
            table.add_row(row.engine, row.why)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"tokens/s; {AT_ONCE}: so many requests at once. platen serve takes the one that decodes fastest."
    )
