"""What a model needs before it exists: memory to serve and to train, key/value cache, FLOPs, time and money.

Pure arithmetic on a parameter count or a `DecoderConfig`; only `measure_flop_rate` touches the machine. A
GB is 10^9 bytes here, as makers of GPUs and the usual rules of thumb count.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from platen.core.errors import ConfigError
from platen.models.arch.config import DecoderConfig

GB = 1_000_000_000
RULE_OF_THUMB_CACHE_BYTES = 1_000_000
"""Key/value cache of one token, one megabyte: on the safe side of a 7B model's half in 16 bits."""
EMBEDDING_MODEL_BYTES = 1 * GB
"""A retrieval embedding model loaded beside the language model."""
TRAINING_BYTES_PER_PARAMETER = 16
"""In float32: weight 4, gradient 4, AdamW's two moments 8."""
BITS = (32, 16, 8, 4)


@dataclass(frozen=True)
class ServingMemory:
    """Bytes to serve a model; `total` is their sum."""

    weights: int
    cache: int
    embedding_model: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.embedding_model


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes to train in float32 with AdamW. `activations` is 0 where only the parameter count is known."""

    weights: int
    gradients: int
    optimizer: int
    activations: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class TrainingFlops:
    """Floating point operations of a training run: matrix products with weights, and attention."""

    weights: float
    attention: float

    @property
    def total(self) -> float:
        return self.weights + self.attention


@dataclass(frozen=True)
class TrainingBill:
    """How long a run takes on all devices together, and what it costs in the price's currency."""

    seconds: float
    cost: float


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: int
    """Bytes."""


GPUS = (
    Gpu("T4", 16 * GB),
    Gpu("V100", 16 * GB),
    Gpu("L4", 24 * GB),
    Gpu("A10G", 24 * GB),
    Gpu("RTX 24 GB", 24 * GB),
    Gpu("RTX 32 GB", 32 * GB),
    Gpu("RTX 48 GB", 48 * GB),
    Gpu("A100 40 GB", 40 * GB),
    Gpu("A100 80 GB", 80 * GB),
    Gpu("H100", 80 * GB),
    Gpu("H100 NVL", 94 * GB),  # a card; the 188 GB often quoted are a pair
)


@dataclass(frozen=True)
class Fit:
    """One cell of the table: a model at `bits` a weight on `gpu`."""

    gpu: Gpu
    bits: int
    needed: int
    """Bytes, cache included."""

    @property
    def fits(self) -> bool:
        return self.needed <= self.gpu.memory

    @property
    def cards(self) -> int:
        """Cards that hold it together."""
        return -(-self.needed // self.gpu.memory)


def parse_count(text: str) -> int:
    """A parameter or token count such as `7B`, `1.1b`, `135M`, `300k` or `2850000`.

    Raises ConfigError for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMbBtT]?)\s*", text.replace(",", "").replace("_", ""))
    scale = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
    count = round(float(match[1]) * scale[match[2].lower()]) if match else 0
    if count < 1:
        raise ConfigError(f"{text!r} is no count", hint="Write a number such as 7B, 135M, 300k or 2850000.")
    return count


def weight_bytes(parameters: int, bits: int = 16) -> int:
    """Bytes of the weights at `bits` each, rounded up."""
    return -(-parameters * bits // 8)


def cache_bytes_per_token(config: DecoderConfig, bytes_per_value: int = 2) -> int:
    """Exact key/value cache of one token of one sequence: 2 · layers · kv_heads · head_dim · bytes.

    Layers with a window count like the others: see `cache_bytes`.
    """
    return 2 * config.num_hidden_layers * config.key_size * bytes_per_value


def cache_bytes(config: DecoderConfig, tokens: int, bytes_per_value: int = 2) -> int:
    """Exact key/value cache of a sequence of `tokens`, where layers hold no more than their windows.

    llama.cpp and vLLM keep such caches; PyTorch's engine holds every token in every layer.
    """
    windows = [config.window(layer) for layer in range(config.num_hidden_layers)]
    held = sum(tokens if window is None else min(tokens, window) for window in windows)
    return 2 * held * config.key_size * bytes_per_value


def serving_memory(
    parameters: int,
    *,
    bits: int = 16,
    tokens: int = 0,
    batch: int = 1,
    cache_per_token: int = RULE_OF_THUMB_CACHE_BYTES,
    embedding_model: bool = False,
) -> ServingMemory:
    """Memory to serve `batch` sequences of `tokens` tokens each, prompt and answer together."""
    return ServingMemory(
        weights=weight_bytes(parameters, bits),
        cache=tokens * batch * cache_per_token,
        embedding_model=EMBEDDING_MODEL_BYTES if embedding_model else 0,
    )


def training_memory(parameters: int, *, activations: int = 0) -> TrainingMemory:
    """Memory to train every parameter in float32 with AdamW: 16 bytes each, plus `activations`.

    Mixed precision keeps these float32 copies, so the sixteen bytes stay.
    """
    return TrainingMemory(
        weights=4 * parameters, gradients=4 * parameters, optimizer=8 * parameters, activations=activations
    )


def activation_bytes(config: DecoderConfig, sequence_length: int, sequences: int) -> int:
    """What a float32 forward pass of `sequences` at once keeps for the backward pass, nothing recomputed.

    Counts each large tensor that an operation of the network saves; attention is fused, so no T × T matrix is
    among them.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    norms = 2 * 3 * hidden  # input, normalised, times its gain
    attention = 2 * queries + 2 * keys  # q, k, v as they are multiplied, and the output
    mlp = 4 * inner  # gate, its SiLU, up, their product
    ends = 3 * hidden + config.vocab_size  # the last norm and the loss
    per_token = config.num_hidden_layers * (norms + attention + mlp) + ends
    return 4 * sequences * sequence_length * per_token


def training_flops(
    parameters: int, tokens: int, *, config: DecoderConfig | None = None, sequence_length: int = 0
) -> TrainingFlops:
    """6 · parameters · tokens (Kaplan et al., 2020); with a shape also attention's 12 · L · H · D · T each.

    That term is from the appendix of PaLM (Chowdhery et al., 2022) and counts the whole T × T square, as
    published utilisation figures do.
    """
    attention = 0
    if config is not None:
        width = config.num_attention_heads * config.head_dim
        attention = 12 * config.num_hidden_layers * width * sequence_length * tokens
    return TrainingFlops(weights=6.0 * parameters * tokens, attention=float(attention))


def training_bill(
    flops: float,
    flop_rate: float,
    *,
    utilisation: float = 1.0,
    devices: int = 1,
    price_per_hour: float = 0.0,
) -> TrainingBill:
    """Time and cost of `flops` on `devices` of `flop_rate` FLOP/s, of which `utilisation` is reached.

    Use a peak rate with about 0.4, or a measured rate with 1. `price_per_hour` is for one device.
    """
    if flop_rate <= 0 or not 0 < utilisation <= 1 or devices < 1:
        raise ConfigError(
            f"can't plan with {flop_rate:g} FLOP/s, utilisation {utilisation:g} and {devices} devices",
            hint="Give a rate above 0, a utilisation between 0 and 1 and at least one device.",
        )
    seconds = flops / (flop_rate * utilisation * devices)
    return TrainingBill(seconds=seconds, cost=seconds / 3600 * devices * price_per_hour)


def fit_table(
    parameters: int,
    *,
    tokens: int = 512,
    batch: int = 1,
    cache_per_token: int = RULE_OF_THUMB_CACHE_BYTES,
    gpus: Sequence[Gpu] = GPUS,
    bits: Sequence[int] = BITS,
) -> tuple[Fit, ...]:
    """Every GPU at every width, in the order given; the cache counts as in `serving_memory`."""
    needed = {
        width: serving_memory(
            parameters, bits=width, tokens=tokens, batch=batch, cache_per_token=cache_per_token
        ).total
        for width in bits
    }
    return tuple(Fit(gpu, width, needed[width]) for gpu in gpus for width in bits)


def measure_flop_rate(seconds: float = 1.0, *, size: int = 768) -> float:
    """This machine's float32 matrix product rate in FLOP/s, on the GPU if there is one.

    Multiplies square matrices of `size` for about `seconds` after a warm-up and takes the best of the rounds,
    since anything else on the machine only slows it.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(size, size, device=device)
    best = 0.0
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(4):
            product = a @ a
        product.sum().item()  # waits for the device
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - start))
        rounds += 1
    return best
