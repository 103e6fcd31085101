"""The one door to the CPU's own layers and kernels: they are used where they compute what PyTorch's compute.

Each kind of layer that a model has is first compared with its packed form on random numbers. Where they
differ, the model stays as it is and a log line says so. PLATEN_CPU_KERNELS=0 in the environment turns it off.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from platen.engines.threads import give_back_memory
from platen.engines.torch.cpu.packed import (
    PackedEmbedding,
    PackedLayer,
    can_pack,
    packed_linear,
    packed_norm,
    usable_kernels,
)
from platen.models.arch.attention import Visible
from platen.models.arch.cache import KVCache
from platen.models.arch.decoder import Decoder, DecoderLayer

log = logging.getLogger(__name__)

SETTING = "PLATEN_CPU_KERNELS"
_PROMPT, _MORE = 17, 2
"""Tokens of the comparison: a prompt, for which there is a kernel of its own, and a few behind it."""


def accelerate(model: Decoder, dtype: torch.dtype | None = None) -> bool:
    """Exchange the model's layers for packed ones. It can then be neither trained nor saved.

    The model computes in `dtype` then, by default its own. Returns whether the layers were packed; if not, it
    is converted as it is. A tied output layer becomes a matrix of its own, so memory grows by the embedding's
    size.
    """
    dtype = dtype or model.dtype
    if _pack(model, dtype):
        return True
    model.to(dtype)
    return False


def _pack(model: Decoder, dtype: torch.dtype) -> bool:
    if os.environ.get(SETTING) == "0":
        log.info("layers are computed by PyTorch: %s=0", SETTING)
        return False
    if not can_pack(model, dtype):
        return False
    config, trunk = model.config, model.model
    kernels, layers = usable_kernels(config, dtype), trunk.layers

    def packed_layer(layer: nn.Module) -> PackedLayer:
        assert isinstance(layer, DecoderLayer)
        return PackedLayer(layer, config, dtype, kernels)

    for number in _one_of_each_kind(model):
        plain = copy.deepcopy(layers[number]).to(dtype)
        if not _same(model, number, dtype, plain, packed_layer(layers[number])):
            log.warning(
                "layers are computed by PyTorch, which is slower: the packed form of layer %d differs", number
            )
            return False
    # Layer beside layer: within one weight, threads wait for each other 200 times over, which on a busy
    # machine takes 5 times as long as the work.
    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="platen-pack") as pool:
        output = pool.submit(packed_linear, model.output_weight, dtype, kernels)
        for number, layer in enumerate(pool.map(packed_layer, layers)):
            layers[number] = layer
        model.packed_output, model.packed_dtype = output.result(), dtype
    trunk.embed_tokens = PackedEmbedding(trunk.embed_tokens.weight, dtype)  # type: ignore[assignment]
    if trunk.embed_positions is not None:
        trunk.embed_positions.to(dtype)
    norm = packed_norm(trunk.norm, dtype, kernels)
    assert norm is not None
    trunk.norm = norm  # type: ignore[assignment]
    if not config.tie_word_embeddings:
        del model.lm_head
    give_back_memory()
    return True


def _one_of_each_kind(model: Decoder) -> Iterator[int]:
    """The first layer of each combination of window, rotation and experts."""
    config, seen = model.config, set()
    for number in range(config.num_hidden_layers):
        kind = (config.window(number), config.theta(number), config.has_experts(number))
        if kind not in seen:
            seen.add(kind)
            yield number


@torch.inference_mode()
def _same(model: Decoder, number: int, dtype: torch.dtype, plain: nn.Module, packed: nn.Module) -> bool:
    """Whether both give the same for a prompt and for tokens behind it, but for rounding."""
    generator = torch.Generator().manual_seed(number)
    total = min(_PROMPT + _MORE, model.config.max_position_embeddings)
    prompt = max(1, total - _MORE)
    x = torch.randn(1, total, model.config.hidden_size, generator=generator).to(dtype)
    outputs: list[Tensor] = []
    for layer in (plain, packed):
        cache = KVCache(model.config, 1, total, dtype=dtype)
        found = []
        for start, stop in ((0, prompt), (prompt, total)):
            angles = model.model.layer_angles(number, start, stop - start, dtype)
            found.append(layer(x[:, start:stop], angles, Visible(stop - start, start), cache))
            cache.advance(stop - start)
        outputs.append(torch.cat(found, dim=1).float())
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    largest = float(outputs[0].abs().max())
    return bool((outputs[0] - outputs[1]).abs().max() <= tolerance * max(1.0, largest))
