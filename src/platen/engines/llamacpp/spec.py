"""llama.cpp's engine: GGUF files, from a compiled folder or as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platen.core.phases import Phase
from platen.engines.options import EngineOptions
from platen.engines.registry import EngineSpec

if TYPE_CHECKING:
    from platen.engines.protocol import Engine
    from platen.models.resolve import ResolvedModel


def _open(model: ResolvedModel, options: EngineOptions, phase: Phase) -> Engine:
    from platen.engines.batching.opening import PREFILL_CHUNK, open_batching
    from platen.engines.llamacpp.runner import LlamaCppRunner
    from platen.models.arch.config import DecoderConfig
    from platen.models.compiled import GGUF_FILE

    config = DecoderConfig.from_hf(model.config.raw)
    # Two numbers of 2 bytes a key/value head's element, in every layer.
    token_bytes = 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    window = config.max_position_embeddings
    # As many slots again as may be in use, for sequences that are over.
    slots = min(2 * options.max_concurrent, options.cache_budget() // (token_bytes * window))
    with phase("open weights"):
        runner = LlamaCppRunner(
            model.path / GGUF_FILE,
            context_window=window,
            slots=max(1, slots),
            step_tokens=2 * PREFILL_CHUNK + options.max_concurrent,
        )
    return open_batching(model, runner, options, phase)


SPEC = EngineSpec(
    name="llamacpp",
    forms=("gguf",),
    open=_open,
    extra="edge",
    module="llama_cpp",
    packages=("llama-cpp-python",),
    capabilities=frozenset({"logprobs", "token_ids"}),
    rank=20,
)
