"""What the machine itself could do: memory read and arithmetic a second, and what a model needs of them.

Writing one text reads every weight once a token, so memory bandwidth over the weights' size bounds it;
reading prompts, and writing many texts at once, is bounded by arithmetic.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from platen.models.arch.config import DecoderConfig

GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """Bytes a second read of a model's size and of a gibibyte, and operations a second."""

    cached_bytes: float
    memory_bytes: float
    float32: float
    bfloat16: float

    def line(self) -> str:
        return (
            f"limits: reads {self.cached_bytes / 1e9:.1f} GB/s of a model's size, "
            f"{self.memory_bytes / 1e9:.1f} of a gibibyte; "
            f"float32 {self.float32 / 1e9:.0f}, bfloat16 {self.bfloat16 / 1e9:.0f} GFLOP/s"
        )

    def writing(self, weight_bytes: float) -> float:
        """Tokens a second that one text could be written at, were reading the weights all there is to do."""
        return self.cached_bytes / weight_bytes

    def reading(self, config: DecoderConfig, tokens: int, arithmetic: float) -> float:
        """Prompt tokens a second, were the products at `arithmetic` operations a second all there is."""
        return tokens * arithmetic / operations(config, tokens)


def operations(config: DecoderConfig, tokens: int) -> float:
    """Multiplications and additions to read a prompt: all layers for each token, the output layer for one."""
    embedding = config.vocab_size * config.hidden_size
    layers = config.num_parameters() - embedding * (1 if config.tie_word_embeddings else 2)
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * tokens**2
    return float(2 * layers * tokens + 2 * embedding + attention)


def measure_limits(model_bytes: int) -> Limits:
    return Limits(
        _read(model_bytes), _read(GIB), _product(torch.float32, 1024), _product(torch.bfloat16, 1024)
    )


def _best(work: Callable[[], object], seconds: float = 1.0) -> float:
    """The shortest of the runs that fit into `seconds`, at least five, after one that does not count."""
    work()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.quantiles(times, n=10)[0] if len(times) > 10 else min(times)


def _read(size: int) -> float:
    """Bytes a second when all threads add up a buffer."""
    buffer = torch.ones(size // 8, dtype=torch.int64)
    return buffer.numel() * 8 / _best(lambda: buffer.sum())


def _product(dtype: torch.dtype, size: int) -> float:
    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    return 2 * size**3 / _best(lambda: a @ b)
