"""A bundle as one GGUF file, llama.cpp's format: weights in its names and order, vocabulary, template."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platen.models.bundle import Bundle
from platen.models.gguf_config import metadata_of
from platen.models.gguf_rope import scaling_tensors
from platen.models.gguf_tensors import architecture_of, gguf_entries
from platen.tokens.gguf_write_vocabulary import add_vocabulary

_BLOCK = 32
"""Numbers that share a scale in q8_0."""
_MISTAKEN = re.compile("phi-?3|modern-bert", re.IGNORECASE)
"""Names from which llama.cpp concludes that a vocabulary has certain tokens, and fails if it lacks them."""


def write_gguf(bundle: Bundle, file: Path, weights: str) -> None:
    """Write `bundle` to `file`; matrices as `weights`, gains and biases in float32.

    Matrices whose rows are no multiple of a block (32) stay float16. Raises BundleError for a network that
    llama.cpp can't compute, ConversionError for a tokenizer that it doesn't have.
    """
    import gguf

    config = bundle.config
    writer = gguf.GGUFWriter(file, architecture_of(config))
    if not _MISTAKEN.search(bundle.path.name):
        writer.add_name(bundle.path.name)
    for key, value in metadata_of(config).items():
        _add_value(writer, f"{architecture_of(config)}.{key}", value)
    add_vocabulary(writer, bundle.tokenizer, config.vocab_size)
    parameters = bundle.model.state_dict()
    for name, entry in gguf_entries(config).items():
        tensor = entry.join(config, parameters)
        _add(writer, name, tensor.float().contiguous().numpy(), weights)
    for name, factors in scaling_tensors(config).items():
        writer.add_tensor(name, factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_value(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add(writer: Any, name: str, values: NDArray[np.float32], weights: str) -> None:
    import gguf

    if values.ndim == 1 or name.endswith(("ffn_gate_inp.weight", "position_embd.weight")):
        writer.add_tensor(name, values)  # llama.cpp reads these in float32 alone
        return
    kind = gguf.GGMLQuantizationType[weights.upper()]
    if weights == "q8_0" and values.shape[-1] % _BLOCK:
        kind = gguf.GGMLQuantizationType.F16
    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
