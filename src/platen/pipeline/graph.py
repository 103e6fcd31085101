"""The stages of a project, in the order they run: made from the declared ones and the file's sections.

A stage's inputs are found by the kinds of artifacts that it needs: the nearest before it, of its own variant
or of none. So whatever made a model last is what is evaluated, released and compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from platen.core.errors import ConfigError
from platen.core.stage import Needs, Stage, StageSpec
from platen.project.sections import Project
from platen.project.stages import AFTER_TRAINING, BEFORE_TRAINING, OWN, STAGES, TRAINING, added
from platen.train.config import TrainConfig


def build_stages(project: Project, directory: Path) -> tuple[Stage, ...]:
    """The project's stages, upstream first.

    Raises ConfigError for a stage whose inputs nothing makes, DataError when a source matches no file.
    """
    planned = _own(project)
    specs = added()
    for name, config in project.stages.items():
        _insert(planned, Stage(name, specs[name], config))
    made: list[Stage] = []
    for stage in planned:
        inputs = _inputs(stage, made)
        sources = tuple(stage.spec.sources_of(stage.config, directory))
        made.append(Stage(stage.name, stage.spec, stage.config, inputs, sources))
    return tuple(made)


def _own(project: Project) -> list[Stage]:
    """Platen's stages that the sections ask for; those of each variant together."""
    stages = [stage for spec in BEFORE_TRAINING for stage in _from(spec, project)]
    shared = tuple(spec for spec in AFTER_TRAINING if not spec.per_variant)
    each = tuple(spec for spec in AFTER_TRAINING if spec.per_variant)
    variants = {f"@{name}": project.variant(name) for name in project.variants} or {"": project}
    for suffix, changed in variants.items():
        stages += _training(changed, suffix)
        stages += [stage for spec in each for stage in _from(spec, changed, suffix)]
    return stages + [stage for spec in shared for stage in _from(spec, project)]


def _from(spec: StageSpec[Any], project: Project, suffix: str = "") -> Iterator[Stage]:
    config = None if spec.settings is None else spec.settings(project)
    if config is not None:
        yield Stage(spec.name + suffix, spec, config)


def _training(project: Project, suffix: str) -> Iterator[Stage]:
    """The one section `train` is a step of pretraining without a name."""
    kinds = TRAINING.all()
    sections: Sequence[tuple[str, str, Any]] = [
        (f"train.{step.name}", step.kind, step) for step in project.steps
    ]
    if isinstance(project.train, TrainConfig):
        sections = [("train", "pretrain", project.train)]
    for number, (name, kind, section) in enumerate(sections):
        first = number == 0 and project.base is None
        step = kinds[kind]
        yield Stage(name + suffix, step.stage, step.settings(project, section, first))


def _insert(stages: list[Stage], new: Stage) -> None:
    """Put a package's stage behind the last one that makes something that it needs."""
    named = {need.stage for need in new.spec.inputs_of(new.config).values()}
    kinds = {kind for need in new.spec.inputs_of(new.config).values() for kind in need.kinds}
    behind = [at for at, stage in enumerate(stages, 1) if stage.kind in kinds or stage.name in named]
    stages.insert(max(behind, default=0), new)


def _inputs(stage: Stage, before: Sequence[Stage]) -> Mapping[str, str]:
    """Role → the name of the stage whose artifact it is. Raises ConfigError for one that nothing makes."""
    found: dict[str, str] = {}
    for role, need in stage.spec.inputs_of(stage.config).items():
        fitting = [other for other in before if _fits(need, other, stage.variant)]
        if need.every:
            found |= {other.name: other.name for other in fitting}
        elif fitting:
            found[role] = fitting[-1].name
        elif not need.optional:
            what = (
                f"the stage {need.stage}" if need.stage else f"an artifact of the kind {_words(need.kinds)}"
            )
            raise ConfigError(
                f"{stage.name} needs {what}, and no stage of this project before it makes one",
                hint=f"stages before it: {', '.join(other.name for other in before) or 'none'}",
            )
    return found


def _fits(need: Needs, other: Stage, variant: str) -> bool:
    if need.stage is not None:
        return other.name == need.stage
    here = bool(other.variant) if need.every else other.variant in ("", variant)
    return here and other.kind in need.kinds


def _words(kinds: Sequence[str]) -> str:
    return " or ".join(kinds)


def select(stages: tuple[Stage, ...], targets: tuple[str, ...]) -> tuple[Stage, ...]:
    """The named stages and all they need; every stage when none is named.

    A name without its variant or step (`train` for `train@rope` or `train.first`) means all of them. Raises
    ConfigError.
    """
    if not targets:
        return stages
    by_name = {stage.name: stage for stage in stages}
    wanted: set[str] = set()
    for target in targets:
        named = [name for name in by_name if target in called(name)]
        if not named:
            hint = f"stages: {', '.join(by_name)}"
            if target in OWN:
                hint += "; others come with their sections in platen.yaml, such as `train`"
            elif target in STAGES.all():
                hint += f"; {target} comes with a section `stages.{target}` in platen.yaml"
            raise ConfigError(f"no stage is called {target!r}", hint=hint)
        wanted.update(named)
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted.update(stage.inputs.values())
    return tuple(stage for stage in stages if stage.name in wanted)


def called(name: str) -> tuple[str, ...]:
    """The names that a stage answers to, the most particular first: without variant, without step."""
    plain = name.partition("@")[0]
    return tuple(dict.fromkeys((name, plain, plain.partition(".")[0])))
