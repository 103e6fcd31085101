"""The project file's `compile`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from platen.core.config import Section

COMPILED_WEIGHTS = {"openvino": ("int8", "int4", "bf16"), "gguf": ("q8_0", "f16", "bf16")}
"""What a compiled form can keep matrices in; the first is the default."""


class CompileConfig(Section):
    """The form of a released model that a faster CPU engine runs."""

    to: Literal["openvino", "gguf"] = "openvino"
    """`openvino` for x86 and Arm CPUs, `gguf` for llama.cpp."""
    weights: Literal["int8", "int4", "bf16", "q8_0", "f16"] | None = None
    """How matrices are kept. openvino: int8 (default), int4, bf16; gguf: q8_0 (default), f16, bf16."""

    @model_validator(mode="after")
    def _possible(self) -> CompileConfig:
        allowed = COMPILED_WEIGHTS[self.to]
        if self.weights is not None and self.weights not in allowed:
            raise ValueError(f"{self.to} weights can be {', '.join(allowed)}; found {self.weights}")
        return self
