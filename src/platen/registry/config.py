"""The project file's `gate` and `register`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from platen.core.config import Section, Text

EVALUATION = "evaluate"
"""The stage whose metrics are named without it."""


class GateRule(Section):
    """One condition on one metric of the evaluation report."""

    metric: Text
    """A metric in the evaluation, such as `bits_per_byte`, or in another stage's report: `STAGE.METRIC`."""
    max: float | None = None
    """Fails above this."""
    min: float | None = None
    """Fails below this."""
    no_worse_than: Literal["production"] | None = None
    """Compare with the model now in production; passes when there is none."""
    by: Annotated[float, Field(ge=0)] = 0.0
    """How much worse than production is still accepted, in the metric's unit."""

    @model_validator(mode="after")
    def _one_condition(self) -> GateRule:
        if self.max is None and self.min is None and self.no_worse_than is None:
            raise ValueError("give max, min or no_worse_than")
        if self.max is not None and self.min is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) is above max ({self.max:g}); nothing can pass")
        return self

    @property
    def report(self) -> str:
        """The stage whose report has the metric."""
        return self.metric.rpartition(".")[0] or EVALUATION


class RegisterConfig(Section):
    """Under what name a model that passed the gate is released."""

    model: Text | None = None
    """Name in the registry; default: the project's name."""
    promote: Literal["candidate", "production"] = "production"
    """Alias that a version which passed the gate gets."""


class ReleaseConfig(Section):
    """What the release of a model depends on: its name, the alias it gets and the gate before it."""

    model: str
    promote: Literal["candidate", "production"]
    gate: tuple[GateRule, ...]
    registry: str | None = None
    """Which registry it is in, without secrets; None is the project's own."""

    @model_serializer(mode="wrap")
    def _own_registry_left_out(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A release in the project's own registry has the fingerprint that it always had."""
        fields: dict[str, Any] = serialize(self)
        return {key: value for key, value in fields.items() if key != "registry" or value is not None}


class BaseConfig(Section):
    """The model that a project starts from, as the project file names it."""

    model: Text
    registry: Annotated[str | None, Field(exclude=True)] = None
    """Where MODEL@VERSION is looked up; None is the project's own registry."""
