"""The stages `evaluate` and `compare`, declared: a model's report, and variants beside one another."""

from __future__ import annotations

from platen.core.stage import Needs, ProjectView, StageSpec, needs
from platen.evaluate.config import CompareConfig, EvaluateConfig
from platen.evaluate.metrics import METRICS


def _evaluate(project: ProjectView) -> EvaluateConfig | None:
    return project.section("evaluate", EvaluateConfig) if project.makes_model else None


EVALUATE = StageSpec(
    name="evaluate",
    kind="evaluation",
    config=EvaluateConfig,
    run="platen.evaluate.measure:evaluate",
    # A role's name is part of the fingerprint: `train` is also the model of a project that trains none.
    inputs={"train": needs("model", "baseline"), "data": needs("data"), "tokens": needs("tokens")},
    settings=_evaluate,
    seeded=True,
    per_variant=True,
    extra="train",
    metrics=lambda: tuple(METRICS.all().values()),
)
COMPARE = StageSpec(
    name="compare",
    kind="comparison",
    config=CompareConfig,
    run="platen.evaluate.compare:compare",
    inputs={"variants": Needs(("model", "baseline", "evaluation"), every=True)},
    settings=lambda project: CompareConfig(variants=project.compared) if project.compared else None,
    extra="train",
)
