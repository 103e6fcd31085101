"""The stage `register`: a model that passed its gate becomes a version with an alias.

Everything it does is safe to do twice, so a run killed after registering ends up as if it had not been.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from platen.core.errors import ArtifactError
from platen.core.stage import StageContext, StageResult
from platen.registry.config import ReleaseConfig
from platen.registry.gate import judge, report_metrics
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


def register(ctx: StageContext[ReleaseConfig]) -> StageResult:
    """Check the gate on the reports among the inputs, register the model, give it the alias.

    Raises GateFailed, with by how much, before anything is registered.
    """
    from platen.models.folder import bundle_fingerprint

    config, model = ctx.config, ctx.input("model")
    registry = Registry(ctx.project_dir, url=ctx.registry_url, state=ctx.state)
    reports = {role: found for role, found in ctx.inputs.items() if found is not model}
    metrics = report_metrics({role: found.manifest.metrics for role, found in reports.items()})
    text = ctx.input("evaluation").manifest.notes.get("evaluated_text")
    outcome = judge(
        config.gate,
        metrics,
        registry.production(config.model),
        ctx.metrics,
        fingerprint=model.manifest.fingerprint,
        text=text,
    )
    for note in outcome.notes:
        ctx.progress.say(note)
    if not outcome.passed:
        raise outcome.refusal(model.manifest.ref)
    version = registry.register(
        config.model,
        fingerprint=model.manifest.fingerprint,
        artifact=model.manifest.ref,
        source=model.path.resolve().as_uri(),
        metrics=metrics,
        evaluated_text=text,
        content=bundle_fingerprint(model.path),
    )
    version = registry.promote(version, config.promote, outcome)
    release = Release(
        model=version.model,
        version=version.number,
        alias=config.promote,
        fingerprint=model.manifest.fingerprint,
        artifact=model.manifest.ref,
        gate=outcome.lines,
    )
    release.write(ctx.out)
    ctx.progress.say(f"{version.name} is {config.promote}.")
    return StageResult(
        metrics={"version": float(version.number)},
        notes={"model": version.model, "alias": config.promote},
    )
