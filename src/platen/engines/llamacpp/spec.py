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
    from platen.models.compiled import GGUF_FILE
    from platen.models.gguf import GgufModel

    file = model.file or GgufModel.open(model.path / GGUF_FILE)
    with phase("open weights"):
        runner = LlamaCppRunner(
            file.path,
            context_window=file.context_window,
            max_rows=options.max_concurrent,
            step_tokens=2 * PREFILL_CHUNK + options.max_concurrent,
            cache_bytes=options.kv_cache_bytes,
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
