"""Gates: the conditions of the project file against an evaluation's metrics, with by how much each was met.

A rule is a threshold, or "no worse than the model in production by so much".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from platen.core.errors import ConfigError, GateFailed
from platen.core.metrics import Metric
from platen.registry.config import EVALUATION, GateRule
from platen.registry.version import Version


@dataclass(frozen=True)
class GateOutcome:
    """`lines` has one line for each condition, `failures` those that were missed; `notes` is what to know."""

    passed: bool
    lines: tuple[str, ...]
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def refusal(self, model: str) -> GateFailed:
        """What to raise when the gate was missed."""
        return GateFailed(
            f"the gate refused {model}: {'; '.join(self.failures)}",
            hint="improve the model or change `gate` in platen.yaml; nothing was registered",
        )


@dataclass(frozen=True)
class _Verdict:
    met: bool
    text: str


def report_metrics(reports: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The metrics of reports, by their stages, under the names that gates use."""
    return {
        name if stage == EVALUATION else f"{stage}.{name}": value
        for stage, metrics in reports.items()
        for name, value in metrics.items()
    }


def judge(
    rules: Sequence[GateRule],
    metrics: Mapping[str, float],
    production: Version | None,
    known: Mapping[str, Metric[Any]],
    *,
    fingerprint: str | None,
    text: str | None = None,
) -> GateOutcome:
    """The one gate: rules on a model's metrics, beside those of the version in production.

    `fingerprint` is the model's: it is not compared with itself. `known` are the declared metrics, by the
    names that rules use; `text` is the hash of the text evaluated on. Raises as `check`.
    """
    if production is not None and production.fingerprint == fingerprint:
        production = None
    outcome = check(rules, metrics, None if production is None else production.metrics, known)
    if production is None or text is None or production.evaluated_text == text:
        return outcome
    if any(rule.no_worse_than for rule in rules):
        note = (
            f"The text evaluated on has changed since {production.name} was measured; the comparison with "
            "production is between two texts."
        )
        return replace(outcome, notes=(note,))
    return outcome


def check(
    rules: Sequence[GateRule],
    metrics: Mapping[str, float],
    production_metrics: Mapping[str, float] | None,
    known: Mapping[str, Metric[Any]],
) -> GateOutcome:
    """Hold every rule against `metrics`; `production_metrics` is None when nothing is in production.

    A metric that is not a number meets no rule. Raises ConfigError when a rule names a metric that the
    evaluation does not have, or one of which it isn't known whether more is better.
    """
    verdicts: list[_Verdict] = []
    for rule in rules:
        if rule.metric not in metrics:
            raise ConfigError(
                f"gate: the evaluation has no metric {rule.metric!r}.",
                hint=f"it has: {', '.join(sorted(metrics))}",
            )
        value = metrics[rule.metric]
        if rule.max is not None:
            verdicts.append(_threshold(rule.metric, value, rule.max, "at most"))
        if rule.min is not None:
            verdicts.append(_threshold(rule.metric, value, rule.min, "at least"))
        if rule.no_worse_than is not None:
            verdicts.append(_against_production(rule, value, production_metrics, known))
    lines = tuple(f"{'✓' if v.met else '✗'} {v.text}" for v in verdicts)
    failures = tuple(v.text for v in verdicts if not v.met)
    return GateOutcome(passed=not failures, lines=lines, failures=failures)


def _threshold(metric: str, value: float, limit: float, kind: str) -> _Verdict:
    room = limit - value if kind == "at most" else value - limit
    met = room >= 0  # False for NaN
    return _Verdict(met, f"{metric} {_number(value)}, {kind} {_number(limit)} wanted: {_margin(room, limit)}")


def _against_production(
    rule: GateRule,
    value: float,
    production_metrics: Mapping[str, float] | None,
    known: Mapping[str, Metric[Any]],
) -> _Verdict:
    metric = rule.metric
    better = known[metric].better if metric in known else None
    if better is None:
        comparable = sorted(name for name, one in known.items() if one.better is not None)
        raise ConfigError(
            f"gate: {metric!r} can't be compared with production, because neither more nor less of it is "
            "better as such.",
            hint=f"use max or min, or one of {', '.join(comparable)}",
        )
    if production_metrics is None:
        return _Verdict(not math.isnan(value), f"{metric} {_number(value)}: nothing in production yet")
    if metric not in production_metrics:
        return _Verdict(False, f"{metric} {_number(value)}: the model in production was not measured on it")
    theirs = production_metrics[metric]
    worse = value - theirs if better == "lower" else theirs - value
    margin = rule.by - worse
    allowed = f", {_number(rule.by)} worse allowed" if rule.by else ""
    text = f"{metric} {_number(value)}, production {_number(theirs)}{allowed}: {_margin(margin, theirs)}"
    return _Verdict(margin >= 0, text)


def _margin(room: float, limit: float) -> str:
    """By how much a condition was met or missed, absolute and relative to its limit."""
    if math.isnan(room):
        return "missed, not a number"
    share = f" ({abs(room / limit):.1%})" if limit and math.isfinite(room) else ""
    return f"{'met with' if room >= 0 else 'missed by'} {_number(abs(room))}{share}"


def _number(value: float) -> str:
    """Whole numbers in full, others to five significant digits."""
    return f"{value:,.0f}" if math.isfinite(value) and value == int(value) else f"{value:.5g}"
