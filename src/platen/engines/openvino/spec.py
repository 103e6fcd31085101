"""OpenVINO's engine: bundles compiled for x86 and Arm CPUs."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from platen.core.phases import Phase
from platen.engines.options import EngineOptions
from platen.engines.registry import EngineSpec

if TYPE_CHECKING:
    from platen.engines.protocol import Engine
    from platen.models.resolve import ResolvedModel

_MADE_FOR = ("x86_64", "amd64", "aarch64", "arm64")


def rank(machine: str) -> int:
    """First on the processors that OpenVINO is made for, last on the others."""
    return 10 if machine.lower() in _MADE_FOR else 50


def _open(model: ResolvedModel, options: EngineOptions, phase: Phase) -> Engine:
    from platen.engines.batching.opening import open_batching
    from platen.engines.openvino.runner import OpenVinoRunner

    with phase("open weights"):
        runner = OpenVinoRunner(
            model.path, max_rows=options.max_concurrent, cache_bytes=options.kv_cache_bytes
        )
    return open_batching(model, runner, options, phase)


SPEC = EngineSpec(
    name="openvino",
    forms=("openvino",),
    open=_open,
    extra="openvino",
    module="openvino",
    packages=("openvino",),
    capabilities=frozenset({"logprobs", "token_ids"}),
    rank=rank(platform.machine()),
)
