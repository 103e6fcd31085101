"""The stage `compile`, declared: a released model in the form that a compiled engine runs."""

from __future__ import annotations

from platen.compress.config import CompileConfig
from platen.core.stage import ProjectView, StageSpec, needs


def _settings(project: ProjectView) -> CompileConfig | None:
    return None if project.compared else project.section("compile", CompileConfig)


COMPILE = StageSpec(
    name="compile",
    kind="compiled",
    config=CompileConfig,
    run="platen.compress.compile:compile_released",
    inputs={"train": needs("model"), "register": needs("release")},
    settings=_settings,
)
