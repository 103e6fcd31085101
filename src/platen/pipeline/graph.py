"""The stages of a project, in the order they run.

Each stage's function is named, not imported: its libraries load only when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import get_args

from platen.core.config import Section
from platen.core.errors import ConfigError
from platen.core.stage import Stage, StageContext, StageResult
from platen.core.urls import shown
from platen.project.sections import Project, StageName
from platen.registry.config import ReleaseConfig
from platen.train.config import PretrainConfig


class CompareConfig(Section):
    variants: tuple[str, ...]


def _function(path: str) -> Callable[[StageContext], StageResult]:
    """A stage function `module:name`, imported at its first call."""
    module, _, name = path.partition(":")

    def run(ctx: StageContext) -> StageResult:
        result: StageResult = getattr(import_module(module), name)(ctx)
        return result

    return run


def build_stages(project: Project, directory: Path) -> tuple[Stage, ...]:
    """The project's stages, upstream first.

    Raises ConfigError when a source matches no file.
    """
    from platen.data.filters.files import filter_files
    from platen.data.sources import source_files

    stages = [
        Stage(
            name="data",
            kind="data",
            version=2,
            run=_function("platen.data.prepare:prepare"),
            config=project.data,
            sources=(*source_files(directory, project.data), *filter_files(project.data.filters, directory)),
        ),
        *_instructions(project, directory),
        *_tokens(project, directory),
    ]
    if project.train is None:
        return tuple(stages)
    if not project.variants:
        return (*stages, *_training(project, ""), _release(project), *_compilation(project))
    for name in project.variants:
        stages += _training(project.variant(name), f"@{name}")
    return (*stages, _comparison(project))


def _tokens(project: Project, directory: Path) -> tuple[Stage, ...]:
    if not project.makes_tokens:
        return ()
    return (
        Stage(
            name="tokenizer",
            kind="tokenizer",
            version=1,
            run=_function("platen.tokens.train:train_tokenizer"),
            config=project.tokenizer,
            inputs={"data": "data"},
            sources=_template_file(project, directory),
        ),
        Stage(
            name="tokens",
            kind="tokens",
            version=1,
            run=_function("platen.tokens.train:encode_corpus"),
            config=Section(),
            inputs={"data": "data", "tokenizer": "tokenizer"},
        ),
    )


def _instructions(project: Project, directory: Path) -> tuple[Stage, ...]:
    if project.instruct is None:
        return ()
    from platen.data.instruct.sources import pair_files

    return (
        Stage(
            name="instruct",
            kind="instructions",
            version=2,
            run=_function("platen.data.instruct.stage:make_instructions"),
            config=project.instruct,
            inputs={"data": "data"},
            sources=tuple(pair_files(directory, project.instruct)),
        ),
    )


def _template_file(project: Project, directory: Path) -> tuple[Path, ...]:
    """The chat template's file. One that is not there is the stage's to complain of."""
    if project.tokenizer.chat_template is None:
        return ()
    file = directory / project.tokenizer.chat_template
    return (file,) if file.is_file() else ()


def _training(project: Project, suffix: str) -> list[Stage]:
    llama = project.model.architecture == "llama"
    train = Stage(
        name=f"train{suffix}",
        kind="model" if llama else "baseline",
        version=1,
        run=_function("platen.train.pretrain:pretrain"),
        config=PretrainConfig(model=project.model, train=project.training()),
        inputs={"tokens": "tokens", "tokenizer": "tokenizer"},
        seeded=True,
        resumable=True,
        tracked=True,
    )
    evaluate = Stage(
        name=f"evaluate{suffix}",
        kind="evaluation",
        version=1,
        run=_function("platen.evaluate.stage:evaluate"),
        config=project.evaluate,
        inputs={"train": train.name, "data": "data", "tokens": "tokens"},
        seeded=True,
    )
    return [train, evaluate]


def _release(project: Project) -> Stage:
    return Stage(
        name="register",
        kind="release",
        version=1,
        run=_function("platen.registry.release:register"),
        config=ReleaseConfig(
            model=project.register_as.model or project.name,
            promote=project.register_as.promote,
            gate=project.gate,
            registry=None if project.registry is None else shown(project.registry),
        ),
        inputs={"evaluate": "evaluate", "train": "train"},
    )


def _compilation(project: Project) -> tuple[Stage, ...]:
    if project.compile_to is None:
        return ()
    return (
        Stage(
            name="compile",
            kind="compiled",
            version=1,
            run=_function("platen.compress.compile:compile_released"),
            config=project.compile_to,
            inputs={"train": "train", "register": "register"},
        ),
    )


def _comparison(project: Project) -> Stage:
    names = tuple(project.variants)
    return Stage(
        name="compare",
        kind="comparison",
        version=1,
        run=_function("platen.evaluate.compare:compare"),
        config=CompareConfig(variants=names),
        inputs={f"{stage}@{name}": f"{stage}@{name}" for name in names for stage in ("train", "evaluate")},
    )


def select(stages: tuple[Stage, ...], targets: tuple[str, ...]) -> tuple[Stage, ...]:
    """The named stages and all they need; every stage when none is named.

    A name without its variant (`train` for `train@rope`) means all of them. Raises ConfigError.
    """
    if not targets:
        return stages
    by_name = {stage.name: stage for stage in stages}
    wanted: set[str] = set()
    for target in targets:
        named = [name for name in by_name if name == target or name.partition("@")[0] == target]
        if not named:
            hint = f"stages: {', '.join(by_name)}"
            if target in get_args(StageName):
                hint += "; others come with their sections in platen.yaml, such as `train`"
            raise ConfigError(f"no stage is called {target!r}", hint=hint)
        wanted.update(named)
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted.update(stage.inputs.values())
    return tuple(stage for stage in stages if stage.name in wanted)
