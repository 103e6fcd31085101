"""The calculator against the usual rules' own examples and against what PyTorch really keeps."""

from __future__ import annotations

import pytest
import torch

from platen.core.errors import ConfigError
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.models.sizing import (
    GB,
    GPUS,
    activation_bytes,
    cache_bytes,
    cache_bytes_per_token,
    fit_table,
    measure_flop_rate,
    parse_count,
    serving_memory,
    training_bill,
    training_flops,
    training_memory,
)

MB = 1_000_000
SEVEN = 7_000_000_000


def test_rules_of_thumb() -> None:
    """7B in 16 bits is 14 GB, 512 tokens 512 MB, sixteen such sequences 8 GB, training 112 GB."""
    assert serving_memory(SEVEN).weights == 14 * GB
    assert serving_memory(SEVEN, tokens=512).cache == 512 * MB
    assert round(serving_memory(SEVEN, tokens=512, batch=16).cache / GB) == 8
    assert serving_memory(SEVEN, tokens=512, embedding_model=True).total == 15 * GB + 512 * MB
    assert training_memory(SEVEN).total == 112 * GB


def test_training_memory_by_part() -> None:
    memory = training_memory(1000, activations=5)
    assert (memory.weights, memory.gradients, memory.optimizer) == (4000, 4000, 8000)
    assert memory.total == 16_005


def test_exact_cache() -> None:
    llama_7b = DecoderConfig(32_000, 4096, 11_008, 32, 32, 32, 128)
    llama_3_8b = DecoderConfig(128_256, 4096, 14_336, 32, 32, 8, 128)
    assert cache_bytes_per_token(llama_7b) == 524_288
    assert cache_bytes_per_token(llama_3_8b) == 131_072  # a quarter of the heads, a quarter of the cache
    assert cache_bytes_per_token(llama_3_8b, bytes_per_value=1) == 65_536


def test_fit_table() -> None:
    cells = {(fit.gpu.name, fit.bits): fit for fit in fit_table(SEVEN, tokens=512)}
    assert len(cells) == len(GPUS) * 4
    assert cells["T4", 16].fits  # 14.5 of 16 GB
    assert not cells["T4", 32].fits
    assert cells["T4", 32].cards == 2
    thirteen = {(fit.gpu.name, fit.bits): fit for fit in fit_table(13_000_000_000, tokens=512)}
    assert not thirteen["L4", 16].fits  # 26.5 of 24 GB
    assert thirteen["L4", 8].fits
    sixty_five = {(fit.gpu.name, fit.bits): fit for fit in fit_table(65_000_000_000, tokens=512)}
    assert sixty_five["H100", 16].cards == 2
    assert sixty_five["H100 NVL", 8].fits
    assert {gpu.name: gpu.memory // GB for gpu in GPUS} == {
        "T4": 16,
        "V100": 16,
        "L4": 24,
        "A10G": 24,
        "RTX 24 GB": 24,
        "RTX 32 GB": 32,
        "RTX 48 GB": 48,
        "A100 40 GB": 40,
        "A100 80 GB": 80,
        "H100": 80,
        "H100 NVL": 94,
    }


def test_training_flops_and_bill() -> None:
    assert training_flops(SEVEN, 10**12).total == pytest.approx(4.2e22)
    config = DecoderConfig(1024, 192, 512, 6, 6, 6, 32)
    flops = training_flops(config.num_parameters(), 1000, config=config, sequence_length=128)
    assert flops.attention == 12 * 6 * 192 * 128 * 1000
    bill = training_bill(4.2e22, 312e12, utilisation=0.5, devices=100, price_per_hour=2.0)
    assert bill.seconds == pytest.approx(4.2e22 / (312e12 * 0.5 * 100))
    assert bill.cost == pytest.approx(bill.seconds / 3600 * 200)
    with pytest.raises(ConfigError, match="0 FLOP/s"):
        training_bill(1.0, 0.0)


@pytest.mark.parametrize("shape", [(1024, 192, 512, 6, 6, 2, 32), (2048, 256, 512, 4, 8, 8, 64)])
def test_activations_are_what_autograd_keeps(shape: tuple[int, ...]) -> None:
    config = DecoderConfig(*shape, max_position_embeddings=64, tie_word_embeddings=True)
    model = Decoder(config)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in own:
            saved[pointer] = tensor
        return tensor

    ids = torch.randint(0, config.vocab_size, (2, 64))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    kept = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert activation_bytes(config, sequence_length=64, sequences=2) == pytest.approx(kept, rel=0.02)


def test_counts_as_written() -> None:
    assert parse_count("7B") == SEVEN
    assert parse_count("1.1b") == 1_100_000_000
    assert parse_count("135M") == 135_000_000
    assert parse_count("2,850,000") == 2_850_000
    for wrong in ("", "B", "-1", "0", "7 B B", "1e9x"):
        with pytest.raises(ConfigError):
            parse_count(wrong)


def test_measured_rate_is_plausible() -> None:
    assert 1e8 < measure_flop_rate(0.05, size=256) < 1e16


def test_layers_with_windows_hold_no_more_than_those() -> None:
    """Gemma 3 1B: 26 layers, of which every sixth holds all, one key/value head of 256, windows of 512."""
    config = DecoderConfig.from_hf(
        {
            "architectures": ["Gemma3ForCausalLM"],
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "sliding_window": 512,
            "max_position_embeddings": 32_768,
            "vocab_size": 262_144,
        }
    )
    assert config.num_parameters() == 999_885_952  # as the model's own page counts
    assert cache_bytes(config, 400) == 400 * cache_bytes_per_token(config) == 400 * 26_624
    assert cache_bytes(config, 8192) == 2 * 2 * 256 * (4 * 8192 + 22 * 512)
