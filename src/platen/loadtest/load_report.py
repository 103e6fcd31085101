"""A load test's report: stats as typed data, a folder with JSON, PNG plots and one HTML page.

The page holds its plots and styles itself, so that it can be mailed or kept beside a release.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from platen import __version__
from platen.core.files import replaced_folder
from platen.core.pages import render_page
from platen.loadtest.knee import SHARE
from platen.loadtest.load import Load, Run
from platen.loadtest.records import Record, Slo, Spread, Summary

TIMES = (
    ("ttft", "time to first token"),
    ("tpot", "time per output token"),
    ("itl", "inter-token latency"),
    ("e2e", "end to end"),
)


@dataclass(frozen=True)
class Measured:
    """One run and its stats."""

    run: Run
    summary: Summary

    @property
    def load(self) -> Load:
        return self.run.load


@dataclass(frozen=True)
class Report:
    """One load test: a single run, or the runs of a sweep and the knee found by it.

    `knee` is in requests a second, or users when `knee_unit` says so; None when no traffic kept the
    objectives or none was searched for.
    """

    url: str
    model: str
    api: str
    prompts: str
    when: str
    slo: Slo | None
    measured: tuple[Measured, ...]
    swept: bool = False
    knee: float | None = None

    @property
    def interrupted(self) -> bool:
        return any(one.run.interrupted for one in self.measured)

    @property
    def knee_unit(self) -> str:
        return "users" if self.measured and self.measured[0].load.users is not None else "requests/s"

    @property
    def shown(self) -> Measured | None:
        """The run to tell of: that at the knee, or the last one; None when stopped before there was one."""
        return _at_the_knee(self) or (self.measured[-1] if self.measured else None)

    def verdict(self) -> str:
        """The knee in a sentence."""
        rule = f"at least {SHARE:.0%} of all requests within {self.slo}"
        if self.knee is None:
            return f"No knee: no traffic that was tried kept {rule}."
        traffic = f"{self.knee:.4g} {self.knee_unit}"
        if self.knee == max(_traffic(one) for one in self.measured):
            return f"No knee up to {traffic}: the most traffic that was tried still kept {rule}."
        return f"Knee: {traffic}, the most traffic tried that kept {rule}."

    def to_json(self) -> dict[str, Any]:
        """Everything but the single requests; times in seconds."""
        return {
            "platen": __version__,
            "url": self.url,
            "model": self.model,
            "api": self.api,
            "prompts": self.prompts,
            "when": self.when,
            "slo": asdict(self.slo) if self.slo else None,
            "interrupted": self.interrupted,
            "knee": self.knee,
            "knee_unit": self.knee_unit if self.swept else None,
            "runs": [
                {"load": asdict(one.load), "summary": asdict(one.summary), "interrupted": one.run.interrupted}
                for one in self.measured
            ],
        }


def write_report(report: Report, folder: Path) -> Path:
    """Write the new `folder` whole or not at all; returns the page. Needs matplotlib."""
    figures = report.to_json() | {"requests": [[_row(r) for r in one.run.records] for one in report.measured]}
    with replaced_folder(folder) as new:
        plots = _plots(report, new)
        (new / "report.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        page = _page(report, [(title, new / name) for title, name in plots])
        (new / "report.html").write_text(page, encoding="utf-8")
    return folder / "report.html"


def _row(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {"scheduled": record.scheduled, "sent": record.sent, "outcome": record.outcome}
    if record.detail:
        row["detail"] = record.detail
    if record.ok:
        row |= {"ttft": record.ttft, "tpot": record.tpot, "e2e": record.e2e}
        row |= {"prompt_tokens": record.prompt_tokens, "output_tokens": record.output_tokens}
    return row


def _page(report: Report, plots: Sequence[tuple[str, Path]]) -> str:
    images = [(title, base64.b64encode(file.read_bytes()).decode()) for title, file in plots]
    return render_page(
        "platen.loadtest",
        "report.html.j2",
        report=report,
        runs=sorted(report.measured, key=_traffic),
        knee=_at_the_knee(report),
        late=max((one.summary.late_p99 for one in report.measured), default=0.0),
        images=images,
        times=TIMES,
        ms=milliseconds,
        share=SHARE,
    )


def milliseconds(seconds: float | None) -> str:
    """A time in milliseconds, with three digits where it is small."""
    if seconds is None:
        return "–"
    value = seconds * 1000
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _plots(report: Report, folder: Path) -> list[tuple[str, str]]:
    """Draw into `folder`; the plots' titles and files."""
    drawn = [_distribution(report, folder)]
    if len(report.measured) > 1:
        drawn += _sweep(report, folder)
    elif report.measured:
        drawn.append(_timeline(report.measured[0], folder))
    return [plot for plot in drawn if plot is not None]


def _curves(
    file: Path,
    title: str,
    xlabel: str,
    ylabel: str,
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
) -> None:
    from platen.core.plots import curves

    curves(file, title, xlabel, ylabel, series, inches=(5.2, 3.4))  # two beside one another, or on a phone


def _at_the_knee(report: Report) -> Measured | None:
    return next((one for one in report.measured if _traffic(one) == report.knee), None)


def _distribution(report: Report, folder: Path) -> tuple[str, str] | None:
    """The share of requests answered within a time, of the last run or at the knee."""
    shown = report.shown
    done = [record for record in shown.run.records if record.ok] if shown else []
    if shown is None or not done:
        return None
    title = f"Times of {len(done)} answers at {shown.load}"
    series = []
    for name, values in (("to the first token", [r.ttft for r in done]), ("in all", [r.e2e for r in done])):
        ordered = np.sort(values)
        points = [(float(ordered[0]), 0.0)]
        points += [(float(value), (rank + 1) / len(ordered)) for rank, value in enumerate(ordered)]
        series.append((name, points))
    if report.slo and report.slo.ttft:
        series.append(("objective, first token", [(report.slo.ttft, 0.0), (report.slo.ttft, 1.0)]))
    _curves(folder / "times.png", title, "seconds", "share of answers", series)
    return title, "times.png"


def _timeline(measured: Measured, folder: Path) -> tuple[str, str]:
    """Requests under way and answers a second, over the run."""
    records = [record for record in measured.run.records if record.ended]
    last = max((r.ended for r in records), default=1.0)
    moments = np.linspace(0, last, 400)
    under_way = [(float(t), float(sum(r.sent <= t < r.ended for r in records))) for t in moments]
    seconds = np.arange(max(2, np.ceil(last) + 1))
    ended = np.histogram([r.ended for r in records if r.ok], bins=seconds)[0]
    title = "Over the run"
    series = [
        ("requests under way", under_way),
        (
            "answers completed in this second",
            [(float(t) + 0.5, float(n)) for t, n in zip(seconds[:-1], ended, strict=True)],
        ),
    ]
    _curves(folder / "timeline.png", title, "seconds", "requests", series)
    return title, "timeline.png"


def _traffic(measured: Measured) -> float:
    load = measured.load
    return float(load.users if load.users is not None else load.rate or 0.0)


def _sweep(report: Report, folder: Path) -> list[tuple[str, str]]:
    """Share within the objectives, first-token times and throughput, against traffic."""
    runs = sorted(report.measured, key=_traffic)
    unit = report.knee_unit
    drawn = []

    def against(file: str, title: str, ylabel: str, series: dict[str, list[float | None]]) -> None:
        points = [
            (name, [(_traffic(one), y) for one, y in zip(runs, values, strict=True) if y is not None])
            for name, values in series.items()
        ]
        _curves(folder / file, title, unit, ylabel, points)
        drawn.append((title, file))

    shares = [one.summary.slo_share for one in runs]
    if report.slo:
        bar: list[float | None] = [SHARE] * len(runs)
        against(
            "share.png",
            f"Requests within {report.slo}",
            "share of all requests",
            {"share": shares, "needed at the knee": bar},
        )

    def of(time: str, share: str) -> list[float | None]:
        spreads: list[Spread | None] = [getattr(one.summary, time) for one in runs]
        return [None if spread is None else getattr(spread, share) for spread in spreads]

    percentiles = {f"{share}": of("ttft", share) for share in ("p50", "p95", "p99")}
    against("ttft.png", "Time to the first token", "seconds", percentiles)
    throughput: list[float | None] = [one.summary.output_throughput for one in runs]
    against("throughput.png", "Throughput", "output tokens/s", {"all answers": throughput})
    return drawn
