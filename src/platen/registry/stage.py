"""The stages `base` and `register`, declared: the model that a project starts from, and its release."""

from __future__ import annotations

from collections.abc import Mapping

from platen.core.stage import Needs, ProjectView, StageSpec, needs
from platen.core.urls import shown
from platen.registry.config import EVALUATION, BaseConfig, GateRule, RegisterConfig, ReleaseConfig


def _base(project: ProjectView) -> BaseConfig | None:
    return None if project.base is None else BaseConfig(model=project.base, registry=project.registry)


def _release(project: ProjectView) -> ReleaseConfig | None:
    register = project.section("register", RegisterConfig)
    if register is None or project.compared or not project.makes_model:
        return None
    return ReleaseConfig(
        model=register.model or project.name,
        promote=register.promote,
        gate=project.items("gate", GateRule),
        registry=None if project.registry is None else shown(project.registry),
    )


def _reports(config: ReleaseConfig) -> Mapping[str, Needs]:
    """The model, its evaluation, and the other reports that the gate asks for."""
    others = {rule.report for rule in config.gate} - {EVALUATION}
    return {
        EVALUATION: needs("evaluation"),
        "train": needs("model"),
        **{name: Needs(stage=name) for name in sorted(others)},
    }


BASE = StageSpec(
    name="base",
    kind="model",
    config=BaseConfig,
    run="platen.registry.base:bring_in",
    settings=_base,
    sources="platen.registry.base:base_files",
)
REGISTER = StageSpec(
    name="register",
    kind="release",
    config=ReleaseConfig,
    run="platen.registry.release:register",
    inputs=_reports,
    settings=_release,
    extra="train",
)
