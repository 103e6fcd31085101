"""A registered version of a model: what is known of it, from MLflow's client or from a snapshot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

ALIASES = ("candidate", "production")
PRODUCTION = "production"
FINGERPRINT, ARTIFACT, SOURCE, METRICS, TEXT, PROMOTIONS = (
    f"platen.{tag}"
    for tag in ("fingerprint", "artifact", "source", "metrics", "evaluated_text", "promotions")
)
CONTENT = "platen.content"
"""The tag of the fingerprint that servers tell: of the bundle's files, whatever made them."""
PARENT_CHECKPOINT, PARENT_RUN = "platen.parent_checkpoint", "mlflow.parentRunId"


@dataclass(frozen=True)
class Promotion:
    """One time that a version was given an alias, and on what grounds."""

    alias: str
    at: datetime
    by: str
    gate: tuple[str, ...]
    override_reason: str | None
    replaced: int | None
    """The version that had the alias before."""


@dataclass(frozen=True)
class Version:
    """A registered model version.

    `fingerprint` is that of the bundle's artifact, `artifact` its `name/fingerprint` in the store (None for a
    model from elsewhere), `source` where it was when registered. `tags` are the registering caller's own.
    """

    model: str
    number: int
    fingerprint: str
    artifact: str | None
    source: str
    run_id: str | None
    created_at: datetime
    aliases: tuple[str, ...]
    metrics: Mapping[str, float]
    evaluated_text: str | None
    """SHA-256 of the text that the metrics were measured on."""
    promotions: tuple[Promotion, ...]
    tags: Mapping[str, str]
    content: str = ""
    """Fingerprint of the bundle's files, which a server tells with its responses; empty in old versions."""

    @property
    def name(self) -> str:
        """`model@number`, as the command line takes it."""
        return f"{self.model}@{self.number}"


@dataclass(frozen=True)
class Ancestor:
    """One step of a version's descent: a training run and the checkpoint it made."""

    run_id: str | None
    run_name: str | None
    fingerprint: str


def version_of(made: Any, aliases: Iterable[str]) -> Version:
    """From `mlflow.entities.model_registry.ModelVersion`, as searches give it: without aliases."""
    tags: dict[str, str] = dict(made.tags)
    return Version(
        model=made.name,
        number=int(made.version),
        fingerprint=tags.get(FINGERPRINT, ""),
        artifact=tags.get(ARTIFACT),
        source=tags.get(SOURCE) or made.source or "",
        run_id=made.run_id or None,
        created_at=datetime.fromtimestamp(made.creation_timestamp / 1000, UTC),
        aliases=tuple(sorted(aliases)),
        metrics=json.loads(tags.get(METRICS, "{}")),
        evaluated_text=tags.get(TEXT),
        promotions=tuple(_promotion(raw) for raw in json.loads(tags.get(PROMOTIONS, "[]"))),
        tags={key: value for key, value in tags.items() if not key.startswith("platen.")},
        content=tags.get(CONTENT, ""),
    )


def from_json(raw: Mapping[str, Any]) -> Version:
    """From what `dataclasses.asdict` gave, written as JSON with dates as texts."""
    return Version(
        **{
            **raw,
            "created_at": datetime.fromisoformat(raw["created_at"]),
            "aliases": tuple(raw["aliases"]),
            "promotions": tuple(_promotion(one) for one in raw["promotions"]),
        }
    )


def promotion_json(promotions: tuple[Promotion, ...]) -> str:
    """Promotions as the tag keeps them."""
    return json.dumps([{**vars(p), "at": p.at.isoformat()} for p in promotions])


def _promotion(raw: Mapping[str, Any]) -> Promotion:
    return Promotion(**{**raw, "at": datetime.fromisoformat(raw["at"]), "gate": tuple(raw["gate"])})
