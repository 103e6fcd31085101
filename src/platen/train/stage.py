"""Kinds of training, declared. `pretrain` starts from random weights, or goes on from the model before it."""

from __future__ import annotations

from collections.abc import Mapping

from platen.core.stage import Needs, ProjectView, StageSpec, StepSpec, needs
from platen.models.config import ModelConfig
from platen.train.config import PretrainConfig, PretrainStep, TrainConfig


def _inputs(config: PretrainConfig) -> Mapping[str, Needs]:
    if config.model is None:
        return {"tokens": needs("tokens"), "model": needs("model")}
    return {"tokens": needs("tokens"), "tokenizer": needs("tokenizer")}


def _settings(project: ProjectView, step: TrainConfig, first: bool) -> PretrainConfig:
    shape = project.section("model", ModelConfig) if first else None
    return PretrainConfig(model=shape, train=step)


PRETRAIN = StepSpec(
    name="pretrain",
    section=PretrainStep,
    settings=_settings,
    stage=StageSpec(
        name="train",
        kind=lambda config: "baseline" if config.model and config.model.architecture != "llama" else "model",
        config=PretrainConfig,
        run="platen.train.pretrain:pretrain",
        inputs=_inputs,
        seeded=True,
        resumable=True,
        tracked=True,
        processes=lambda config: config.train.processes,
        extra="train",
    ),
)
