"""The ablation ladder's networks: for samples in their reports, and to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platen.core.phases import Phase
from platen.engines.options import EngineOptions
from platen.engines.registry import EngineSpec

if TYPE_CHECKING:
    from platen.engines.protocol import Engine
    from platen.models.resolve import ResolvedModel


def _open(model: ResolvedModel, options: EngineOptions, phase: Phase) -> Engine:
    from dataclasses import replace

    from platen.core.devices import select_device
    from platen.engines.batching.opening import open_batching
    from platen.engines.ladder.runner import WindowRunner
    from platen.models import ladder

    with phase("open weights"):
        baseline = ladder.open(model.path)
        baseline = replace(baseline, model=baseline.model.to(select_device(options.device)))
    return open_batching(model, WindowRunner(baseline), options, phase)


def _refuses(model: ResolvedModel) -> str | None:
    if model.config.raw.get("model_type") == "platen_ladder":
        return None
    return "it is no network of the ablation ladder"


SPEC = EngineSpec(
    name="ladder",
    forms=("bundle",),
    open=_open,
    extra="serve",
    module="torch",
    packages=("torch",),
    capabilities=frozenset({"logprobs", "token_ids"}),
    devices=("cpu", "cuda", "mps"),
    refuses=_refuses,
    rank=90,
)
