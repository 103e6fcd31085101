"""The model registry: versions with their bundle's fingerprint, aliases, and the rules for moving them.

A version becomes candidate or production only through a passed gate, or an override whose reason is kept.
A version that an alias points to can't be deleted. Registering the same bundle twice gives one version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platen.core.errors import RegistryError
from platen.registry import reading
from platen.registry.backend import writing
from platen.registry.reading import ALIASES, Ancestor, Promotion, Version
from platen.registry.reading import production_metrics as production_metrics

if TYPE_CHECKING:
    from platen.registry.gate import GateOutcome


class Registry:
    """A project's models. Reading is quick; the first change loads MLflow."""

    def __init__(self, project_dir: Path) -> None:
        self.project_dir = project_dir

    def versions(self, model: str | None = None) -> list[Version]:
        """Every version, oldest first."""
        return reading.versions(self.project_dir, model)

    def get(self, model: str, which: str | int) -> Version:
        """A version by number or alias. Raises RegistryError."""
        return reading.get(self.project_dir, model, which)

    def production(self, model: str) -> Version | None:
        """The version in production, or None."""
        return reading.production(self.project_dir, model)

    def lineage(self, version: Version) -> list[Ancestor]:
        """From the version's training run back to the first checkpoint it descends from."""
        return reading.lineage(self.project_dir, version)

    def register(
        self,
        model: str,
        *,
        fingerprint: str,
        source: str,
        metrics: Mapping[str, float],
        artifact: str | None = None,
        evaluated_text: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Version:
        """Record a bundle as a version of `model`, linked to the run that trained it, whose page gets the
        metrics as `evaluation.…`.

        The same fingerprint again gives the version there is, with its metrics brought up to date; a
        process killed half-way therefore leaves nothing that a second try would double. `source` is where
        the bundle lies; `artifact` its `name/fingerprint` in the store; `tags` are the caller's own, such
        as where a bought model came from.
        """
        run_id = reading.find_run(self.project_dir, fingerprint)
        recorded = {
            **(tags or {}),
            reading.FINGERPRINT: fingerprint,
            reading.METRICS: json.dumps(dict(metrics), sort_keys=True),
        }
        if artifact is not None:
            recorded[reading.ARTIFACT] = artifact
        if evaluated_text is not None:
            recorded[reading.TEXT] = evaluated_text
        with writing(self.project_dir, f"registering {model}") as client:
            known = next((v for v in self.versions(model) if v.fingerprint == fingerprint), None)
            if run_id is not None and (known is None or known.metrics != metrics):
                _add_to_run(client, run_id, metrics)
            if known is None:
                _ensure_model(client, model)
                made = client.create_model_version(model, source, run_id=run_id, tags=recorded)
                number = int(made.version)
            else:
                number = known.number
                for key, value in recorded.items():
                    client.set_model_version_tag(model, str(number), key, value)
        return self.get(model, number)

    def promote(
        self, version: Version, alias: str, gate: GateOutcome, *, override_reason: str | None = None
    ) -> Version:
        """Give `version` the alias; whichever had it loses it.

        Raises RegistryError when the gate failed and no reason to override it is given. What happened,
        by whom and why is kept with the version. A production version is no candidate any more.
        """
        if alias not in ALIASES:
            raise RegistryError(f"There is no alias {alias!r}.", hint=f"one of: {', '.join(ALIASES)}")
        reason = (override_reason or "").strip()
        if not gate.passed and not reason:
            raise RegistryError(
                f"{version.name} did not pass its gate: {'; '.join(gate.failures)}.",
                hint="promote it with --override --reason 'why', or improve the model",
            )
        with writing(self.project_dir, f"promoting {version.name}") as client:
            current = self.get(version.model, version.number)
            if alias in current.aliases:
                return current
            before = next((v for v in self.versions(version.model) if alias in v.aliases), None)
            promotion = Promotion(
                alias=alias,
                at=datetime.now(UTC),
                by=reading.current_user(),
                gate=gate.lines,
                override_reason=None if gate.passed else reason,
                replaced=before.number if before else None,
            )
            # The record goes first: a kill between the two leaves a promotion noted that did not happen
            # and is made again, never one that happened unnoted.
            client.set_model_version_tag(
                version.model,
                str(version.number),
                reading.PROMOTIONS,
                reading.promotion_json((*current.promotions, promotion)),
            )
            client.set_registered_model_alias(version.model, alias, str(version.number))
            if alias == "production" and "candidate" in current.aliases:
                client.delete_registered_model_alias(version.model, "candidate")
        return self.get(version.model, version.number)

    def delete(self, version: Version) -> None:
        """Remove a version from the registry; its artifact is left to `platen gc`.

        Raises RegistryError while an alias points to it.
        """
        with writing(self.project_dir, f"deleting {version.name}") as client:
            aliases = self.get(version.model, version.number).aliases
            if aliases:
                raise RegistryError(
                    f"{version.name} is live ({', '.join(aliases)}) and can't be deleted.",
                    hint=f"promote another version to {aliases[0]} first",
                )
            client.delete_model_version(version.model, str(version.number))


def _ensure_model(client: Any, model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(model)
    except MlflowException:
        client.create_registered_model(model)


def _add_to_run(client: Any, run_id: str, metrics: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    now = int(datetime.now(UTC).timestamp() * 1000)
    points = [Metric(f"evaluation.{key}", value, now, 0) for key, value in metrics.items()]
    client.log_batch(run_id, metrics=points)
