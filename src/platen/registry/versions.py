"""The model registry: versions with their bundle's fingerprint, aliases, and the rules for moving them.

A version becomes candidate or production only through a passed gate, or an override whose reason is kept.
A version that an alias points to can't be deleted. Registering the same bundle twice gives one version.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from platen.core.errors import RegistryError
from platen.core.state.interface import State
from platen.registry.backend import Backend
from platen.registry.runs import find_run, lineage
from platen.registry.snapshot import Snapshot
from platen.registry.version import (
    ALIASES,
    ARTIFACT,
    CONTENT,
    FINGERPRINT,
    METRICS,
    PRODUCTION,
    PROMOTIONS,
    SOURCE,
    TEXT,
    Ancestor,
    Promotion,
    Version,
    promotion_json,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from platen.registry.gate import GateOutcome


class Registry:
    """A project's models. Reading goes by the snapshot while that is fresh; a change loads MLflow."""

    def __init__(self, project_dir: Path, *, url: str | None = None, state: State | None = None) -> None:
        """`url` is an MLflow server or database, `state` the project's; by default both are in `.platen`."""
        self.backend = Backend(project_dir, url, state)
        self.snapshot = Snapshot(self.backend)

    def versions(self, model: str | None = None) -> list[Version]:
        """Every version, of one model or of all, oldest first; empty before the first one."""
        return _of(self.snapshot.versions(), model)

    def get(self, model: str, which: str | int) -> Version:
        """A version by number or alias. Raises RegistryError, naming what there is."""
        return _get(self.snapshot.versions(), model, which)

    def production(self, model: str) -> Version | None:
        """The version in production, or None."""
        return _with_alias(self.versions(model), PRODUCTION)

    def with_content(self, fingerprint: str) -> list[Version]:
        """The versions whose bundle's fingerprint begins so, as servers tell it (`fp_…`), oldest first.

        Raises RegistryError when there is none, or it is too short to tell bundles apart.
        """
        wanted = fingerprint.removeprefix("fp_").lower()
        if len(wanted) < 6:
            raise RegistryError(f"{fingerprint!r} is too short a fingerprint", hint="give 6 digits or more")
        found = [version for version in self.versions() if version.content.startswith(wanted)]
        if not found:
            raise RegistryError(
                f"No registered version has a bundle with the fingerprint {wanted}.",
                hint="it was registered elsewhere or by an older version; `platen models` lists what is here",
            )
        return found

    def lineage(self, version: Version) -> list[Ancestor]:
        """From the version's own training run back to the first checkpoint it descends from."""
        with self.backend.client(f"the lineage of {version.name}") as client:
            return lineage(client, version)

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
        content: str | None = None,
    ) -> Version:
        """Record a bundle as a version of `model`, linked to the run that trained it, whose page gets the
        metrics as `evaluation.…`.

        The same fingerprint again gives the version there is, with its metrics brought up to date; a
        process killed half-way therefore leaves nothing that a second try would double. `source` is where
        the bundle lies; `artifact` its `name/fingerprint` in the store; `tags` are the caller's own, such
        as where a bought model came from; `content` is the fingerprint of the bundle's files, by which
        `with_content` finds the version.
        """
        recorded = {
            **(tags or {}),
            FINGERPRINT: fingerprint,
            METRICS: json.dumps(dict(metrics), sort_keys=True),
        }
        if self.backend.is_server:  # which takes no folders of other machines as a version's source
            recorded[SOURCE] = source
        if artifact is not None:
            recorded[ARTIFACT] = artifact
        if content is not None:
            recorded[CONTENT] = content
        if evaluated_text is not None:
            recorded[TEXT] = evaluated_text
        with self.backend.writing(f"registering {model}") as client:
            run_id = find_run(client, fingerprint)
            versions = _of(self.snapshot.renew(client), model)
            known = next((v for v in versions if v.fingerprint == fingerprint), None)
            if run_id is not None and (known is None or known.metrics != metrics):
                _add_to_run(client, run_id, metrics)
            if known is None:
                _ensure_model(client, model)
                there = f"platen:/{artifact or fingerprint}" if self.backend.is_server else source
                made = client.create_model_version(model, there, run_id=run_id, tags=recorded)
                number = int(made.version)
            else:
                number = known.number
                for key, value in recorded.items():
                    client.set_model_version_tag(model, str(number), key, value)
            return _get(self.snapshot.renew(client), model, number)

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
        model, number = version.model, str(version.number)
        with self.backend.writing(f"promoting {version.name}") as client:
            versions = _of(self.snapshot.renew(client), model)
            current = _get(versions, model, version.number)
            if alias in current.aliases:
                return current
            before = _with_alias(versions, alias)
            promotion = Promotion(
                alias=alias,
                at=datetime.now(UTC),
                by=current_user(),
                gate=gate.lines,
                override_reason=None if gate.passed else reason,
                replaced=before.number if before else None,
            )
            # The record goes first: a kill between the two leaves a promotion noted that did not happen
            # and is made again, never one that happened unnoted.
            record = promotion_json((*current.promotions, promotion))
            client.set_model_version_tag(model, number, PROMOTIONS, record)
            client.set_registered_model_alias(model, alias, number)
            if alias == PRODUCTION and "candidate" in current.aliases:
                client.delete_registered_model_alias(model, "candidate")
            return _get(self.snapshot.renew(client), model, number)

    def delete(self, version: Version) -> None:
        """Remove a version from the registry; its artifact is left to `platen gc`.

        Raises RegistryError while an alias points to it.
        """
        with self.backend.writing(f"deleting {version.name}") as client:
            aliases = _get(self.snapshot.renew(client), version.model, version.number).aliases
            if aliases:
                raise RegistryError(
                    f"{version.name} is live ({', '.join(aliases)}) and can't be deleted.",
                    hint=f"promote another version to {aliases[0]} first",
                )
            client.delete_model_version(version.model, str(version.number))
            self.snapshot.renew(client)


def current_user() -> str:
    """The account that a change is recorded under."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's numeric user without a passwd entry
        return "unknown"


def _of(versions: Iterable[Version], model: str | None) -> list[Version]:
    return [version for version in versions if model is None or version.model == model]


def _with_alias(versions: Iterable[Version], alias: str) -> Version | None:
    return next((version for version in versions if alias in version.aliases), None)


def _get(versions: Sequence[Version], model: str, which: str | int) -> Version:
    known = _of(versions, model)
    number = int(which) if str(which).isdecimal() else None
    for version in known:
        if version.number == number or which in version.aliases:
            return version
    there = [f"{v.number} ({', '.join(v.aliases)})" if v.aliases else str(v.number) for v in known]
    if not known:
        models = sorted({version.model for version in versions})
        raise RegistryError(
            f"No model called {model!r} is registered.",
            hint=f"registered: {', '.join(models)}" if models else "platen run registers one",
        )
    raise RegistryError(
        f"Model {model!r} has no version or alias {str(which)!r}.", hint=f"versions: {', '.join(there)}"
    )


def _ensure_model(client: MlflowClient, model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(model)
    except MlflowException:
        client.create_registered_model(model)


def _add_to_run(client: MlflowClient, run_id: str, metrics: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    now = int(datetime.now(UTC).timestamp() * 1000)
    points = [Metric(f"evaluation.{key}", value, now, 0) for key, value in metrics.items()]
    client.log_batch(run_id, metrics=points)
