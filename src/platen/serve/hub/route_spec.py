"""What is to answer to a name, as it is asked for over HTTP and kept for the next start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from platen.serve.hub.routing import CANARY, SHADOW, STABLE, CanaryLimits

Reference = Annotated[str, Field(min_length=1, max_length=4096)]
"""What a loader takes; or NAME+FOLDER, a LoRA adapter over the model that answers to NAME."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class VariantSpec(_Strict):
    """One part of a split."""

    label: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")]
    model: Reference
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0


class CanarySpec(_Strict):
    """A new model that gets a small share until it has shown itself, and is taken back when it fails."""

    model: Reference
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    min_requests: Annotated[int, Field(ge=1, le=10_000)] = CanaryLimits.min_requests
    window: Annotated[int, Field(ge=1, le=100_000)] = CanaryLimits.window
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = CanaryLimits.max_error_rate
    max_slowdown: Annotated[float, Field(ge=1)] = CanaryLimits.max_slowdown

    @property
    def limits(self) -> CanaryLimits:
        window = max(self.window, self.min_requests)
        return CanaryLimits(self.min_requests, window, self.max_error_rate, self.max_slowdown)


class RouteSpec(_Strict):
    """All that is to answer to a name: a model; or parts of a split; and a canary or a shadow beside it.

    With `reload` a model is loaded again though its reference has not changed.
    """

    model: Reference | None = None
    variants: Annotated[list[VariantSpec], Field(max_length=16)] = []
    canary: CanarySpec | None = None
    shadow: Reference | None = None
    reload: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> RouteSpec:
        if (self.model is None) == (not self.variants):
            raise ValueError("give model, or variants, not both")
        if self.variants and self.canary:
            raise ValueError("a canary goes beside a single model, not beside variants")
        labels = [variant.label for variant in self.variants]
        if len(set(labels)) < len(labels) or {CANARY, SHADOW} & set(labels):
            raise ValueError("each variant needs a label of its own, other than canary and shadow")
        return self

    def parts(self) -> list[tuple[str, str, float]]:
        """Label, reference and weight of each variant, the stable one first."""
        if self.model is None:
            return [(variant.label, variant.model, variant.weight) for variant in self.variants]
        if self.canary is None:
            return [(STABLE, self.model, 1.0)]
        share = self.canary.share
        return [(STABLE, self.model, 1 - share), (CANARY, self.canary.model, share)]

    def with_references(self, change: Callable[[str], str]) -> RouteSpec:
        """The same with each reference changed."""
        canary = self.canary and self.canary.model_copy(update={"model": change(self.canary.model)})
        variants = [v.model_copy(update={"model": change(v.model)}) for v in self.variants]
        model, shadow = self.model and change(self.model), self.shadow and change(self.shadow)
        return self.model_copy(
            update={"model": model, "variants": variants, "canary": canary, "shadow": shadow}
        )
