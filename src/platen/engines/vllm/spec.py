"""vLLM's engine: any bundle that vLLM itself knows, on GPUs; taken when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platen.core.phases import Phase
from platen.engines.options import EngineOptions
from platen.engines.registry import EngineSpec

if TYPE_CHECKING:
    from platen.engines.protocol import Engine
    from platen.models.resolve import ResolvedModel


def _open(model: ResolvedModel, options: EngineOptions, phase: Phase) -> Engine:
    from platen.engines.batching.opening import text_tools
    from platen.engines.vllm.config import VllmConfig
    from platen.engines.vllm.engine import VllmEngine
    from platen.engines.vllm.process import VllmChild, find_vllm

    config = options.vllm or VllmConfig()
    if options.dtype != "auto":
        config = config.model_copy(update={"dtype": options.dtype})
    window = model.config.context_window
    with phase("start engine"):
        return VllmEngine(
            VllmChild(model.path, config, options.max_concurrent, find_vllm()),
            context_window=min(window, config.max_model_len or window),
            vocab_size=model.config.vocab_size,
            max_concurrent=options.max_concurrent,
            max_queue=options.max_queue,
            on_close=model.release,
            **text_tools(model),
        )


SPEC = EngineSpec(
    name="vllm",
    forms=("bundle",),
    open=_open,
    capabilities=frozenset({"logprobs", "token_ids"}),
    devices=(),
)
