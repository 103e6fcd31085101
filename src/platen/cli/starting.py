"""What `platen serve` shows: how far a download is, where the time to start went, and where it answers."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from platen.core.phases import Phases
from platen.core.progress import Task

if TYPE_CHECKING:
    from platen.serve.config import ServeConfig
    from platen.serve.server import Started


def start_phases() -> Phases:
    """Where the time goes from here on, beside what this process has taken until now."""
    phases = Phases()
    phases.add("start Python", _process_age())
    return phases


def explain(phases: Phases) -> None:
    """Print a table of what the process's time went to."""
    from rich.console import Console
    from rich.table import Table

    total = _process_age()
    table = Table("start-up", "seconds", "share", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    rest = total - sum(phases.seconds.values())
    for name, seconds in [*phases.seconds.items(), ("other", rest), ("ready after", total)]:
        table.add_row(name, f"{seconds:.2f}", f"{seconds / total:.0%}")
    Console(highlight=False).print(table)


def _process_age() -> float:
    import psutil

    return time.time() - psutil.Process().create_time()


class DownloadBar:
    """A bar with rate and time left, there from the first report until all bytes are."""

    def __init__(self) -> None:
        self._shown = ExitStack()
        self._task: Task | None = None

    def update(self, done: int, total: int) -> None:
        if self._task is None:
            from platen.cli.console import ConsoleObserver

            bar = ConsoleObserver().task("downloading", total=total, unit="B")
            self._task = self._shown.enter_context(bar)
        self._task.update(done, total=total)
        if done >= total:
            self._close()

    def __enter__(self) -> DownloadBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        self._shown.close()
        self._task = None


def announce_gateway(started: Started, name: str, config: ServeConfig) -> None:
    """Say what a server without a model of its own answers."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    names = [one.name for one in config.upstreams] + [entry.name for entry in config.models]
    console.print(f"\n[bold]{name}[/] answers at [bold cyan]{started.url}[/]\n")
    console.print(f"  models    {', '.join(names)}", markup=False)
    if config.upstreams:
        console.print(f"  page      {started.url}", markup=False)
    if started.grpc_address is not None:
        console.print(f"  gRPC      {started.grpc_address}  (Open Inference Protocol)", markup=False)
    console.print(f"  API       {started.url}/v1  (OpenAI: /models, /chat/completions, …)", markup=False)
    console.print(f"  terminal  platen chat --url {started.url} -m {names[0]}", markup=False)
    body = json.dumps({"model": names[0], "messages": [{"role": "user", "content": "Hello"}]})
    url = f"{started.url}/v1/chat/completions"
    console.print(f"  try       {_curl(url, body, config)}\n", markup=False)
    console.print("Ctrl-C ends it.")


def _curl(url: str, body: str, config: ServeConfig) -> str:
    key = " -H 'authorization: Bearer YOUR_KEY'" if config.keys == "required" else ""
    return f"curl {url} -H 'content-type: application/json'{key} -d '{body}'"


def announce(started: Started, name: str, config: ServeConfig) -> None:
    """Say where a model answers and how to ask it."""
    from rich.console import Console

    from platen.cli.console import human_size

    console = Console(highlight=False, soft_wrap=True)
    url = started.url
    console.print(f"\n[bold]{name}[/] answers at [bold cyan]{url}[/]\n")
    # Plain lines, whatever the terminal's width: they are there to be copied.
    console.print(f"  engine    {started.why}", markup=False)
    if started.kv_bytes:
        share = f" ({config.kv_memory} of what was free)" if config.kv_memory.endswith("%") else ""
        size = human_size(started.kv_bytes)
        console.print(
            f"  memory    up to {size} for keys and values{share}; one request may have "
            f"{started.longest:,} tokens",
            markup=False,
        )
    if started.grpc_address is not None:
        console.print(f"  gRPC      {started.grpc_address}  (Open Inference Protocol)", markup=False)
    if started.restored:
        names = ", ".join(started.restored)
        console.print(f"  traffic   as changed before: {names}  (--fresh forgets that)", markup=False)
    if started.kind == "embedding":
        console.print(f"  API       {url}/v1  (OpenAI: /models, /embeddings)", markup=False)
        route, body = "embeddings", json.dumps({"model": name, "input": "Once upon a time"})
    else:
        console.print(f"  page      {url}", markup=False)
        console.print(
            f"  API       {url}/v1  (OpenAI: /models, /completions, /chat/completions)", markup=False
        )
        console.print(f"  terminal  platen chat --url {url}", markup=False)
        route = "completions"
        body = json.dumps({"model": name, "prompt": "Once upon a time", "max_tokens": 60})
    console.print(f"  try       {_curl(f'{url}/v1/{route}', body, config)}\n", markup=False)
    console.print("Ctrl-C ends it.")
