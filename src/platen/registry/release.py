"""The stage `register`: a model that passed its gate becomes a version with an alias.

Everything it does is safe to do twice, so a run killed after registering ends up as if it had not been.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from platen.core.errors import ArtifactError, GateFailed
from platen.core.stage import StageContext, StageResult
from platen.registry.config import ReleaseConfig
from platen.registry.gate import GateOutcome, check
from platen.registry.versions import Registry

_FILE = "release.json"


@dataclass(frozen=True)
class Release:
    """`release.json`: which version of which model the run released, and the bundle's artifact."""

    model: str
    version: int
    alias: str
    fingerprint: str
    artifact: str
    gate: tuple[str, ...]

    def write(self, folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Release:
        """Raises ArtifactError when the file is missing or damaged."""
        path = folder / _FILE
        try:
            raw = json.loads(path.read_text("utf-8"))
            return cls(**{**raw, "gate": tuple(raw["gate"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path} can't be read: {error}", hint="platen run register") from error


def register(ctx: StageContext) -> StageResult:
    """Check the gate on the input `evaluate`, register the bundle of `train`, give it the alias.

    Raises GateFailed, with by how much, before anything is registered.
    """
    from platen.models.folder import bundle_fingerprint

    config: ReleaseConfig = ctx.config
    train, evaluation = ctx.inputs["train"], ctx.inputs["evaluate"]
    registry = Registry(ctx.project_dir, url=ctx.registry_url, state=ctx.state)
    metrics = evaluation.manifest.metrics
    text = evaluation.manifest.notes.get("evaluated_text")
    outcome = _gate(ctx, registry, config, metrics, text)
    version = registry.register(
        config.model,
        fingerprint=train.manifest.fingerprint,
        artifact=train.manifest.ref,
        source=train.path.resolve().as_uri(),
        metrics=metrics,
        evaluated_text=text,
        content=bundle_fingerprint(train.path),
    )
    version = registry.promote(version, config.promote, outcome)
    release = Release(
        model=version.model,
        version=version.number,
        alias=config.promote,
        fingerprint=train.manifest.fingerprint,
        artifact=train.manifest.ref,
        gate=outcome.lines,
    )
    release.write(ctx.out)
    ctx.progress.say(f"{version.name} is {config.promote}.")
    return StageResult(
        metrics={"version": float(version.number)},
        notes={"model": version.model, "alias": config.promote},
    )


def _gate(
    ctx: StageContext,
    registry: Registry,
    config: ReleaseConfig,
    metrics: dict[str, float],
    text: str | None,
) -> GateOutcome:
    production = registry.production(config.model)
    if production is not None and production.fingerprint == ctx.inputs["train"].manifest.fingerprint:
        production = None  # a repeated run: it would be compared with itself
    outcome = check(config.gate, metrics, production.metrics if production else None)
    compared = any(rule.no_worse_than for rule in config.gate)
    if production is not None and compared and production.evaluated_text != text:
        ctx.progress.say(
            f"The text evaluated on has changed since {production.name} was measured; the comparison with "
            "production is between two texts."
        )
    if not outcome.passed:
        raise GateFailed(
            f"{ctx.inputs['train'].manifest.ref} missed its gate: {'; '.join(outcome.failures)}.",
            hint="nothing was registered; improve the model, or change `gate` in the project file",
        )
    return outcome
