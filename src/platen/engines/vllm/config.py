"""The project file's `serve.vllm`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from platen.core.config import PositiveInt, Section


class VllmConfig(Section):
    """How vLLM is started, on a machine that has it."""

    tensor_parallel_size: PositiveInt = 1
    """GPUs over which each layer is cut."""
    pipeline_parallel_size: PositiveInt = 1
    """Groups of GPUs over which the layers are dealt out."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """What it computes in; auto takes the bundle's own."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of each GPU's memory that it may take."""
    max_model_len: PositiveInt | None = None
    """Longest text in tokens; default: the model's context window."""
    start_seconds: Annotated[float, Field(gt=0)] = 900.0
    """How long it may take to become ready."""
