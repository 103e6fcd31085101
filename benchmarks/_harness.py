"""What the comparisons share: options, the machine they ran on, fair timing, one line a result."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from platen.core.cpu import processor

T = TypeVar("T")
PACKAGES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass
class Result:
    """One comparison: `ours` and `peer` in `unit`, and how many times better ours is."""

    name: str
    ours: float
    peer: float
    ratio: float
    unit: str
    peer_name: str = ""
    details: dict[str, object] = field(default_factory=dict)

    def line(self) -> str:
        return f"{self.name} ours={self.ours:.4g} peer={self.peer:.4g} ratio={self.ratio:.3f}"


def options(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every comparison has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute; shows that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all)")
    return parser


def machine() -> dict[str, object]:
    """Processor, cores, load and the versions of what is compared."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
    }


def interleaved(contestants: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Run all contestants in turn, `rounds` times, so that a slow minute of the machine hits all alike."""
    seen: dict[str, list[T]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            seen[name].append(run())
    return seen


def median_step_seconds(step: Callable[[], object], *, warmup: int, steps: int) -> float:
    """Median wall-clock seconds of a call, after `warmup` that do not count."""
    for _ in range(warmup):
        step()
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def report(results: list[Result], *, json_file: Path | None, quick: bool) -> None:
    """Print the machine and a line a result; write them as JSON when asked to."""
    where = machine()
    print("machine:", ", ".join(f"{key} {value}" for key, value in where.items()))
    for result in results:
        print(result.line())
    if json_file:
        content = {"quick": quick, "machine": where, "results": [vars(result) for result in results]}
        json_file.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def peak_memory() -> int:
    """Bytes that this process held at most; getrusage may tell what the process that it came from did."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
