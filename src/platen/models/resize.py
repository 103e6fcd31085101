"""A bundle for an extended tokenizer: rows of the embedding, and of the output layer, for the new tokens.

A new token begins as the mean of the tokens that its text had before, so that the model reads and expects it
much as it did those; a special token, which had none, as the mean of all (Hewitt 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from platen.models.arch.decoder import Decoder
from platen.models.bundle import Bundle, save_bundle
from platen.tokens.tokenizer import Tokenizer

_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def resize_bundle(
    bundle: Bundle, tokenizer: Tokenizer, origins: Mapping[int, tuple[int, ...]], out: Path
) -> int:
    """Write `bundle` with `tokenizer`, an extension of its own, into the folder `out`; rows it has then.

    `origins` has the old ids for each new one. Rows of an embedding that no token had are used first. A tied
    output layer stays tied. Raises BundleError when the disk refuses.
    """
    rows = max(bundle.config.vocab_size, tokenizer.vocab_size)
    with torch.device("meta"):
        model = Decoder(replace(bundle.config, vocab_size=rows))
    tensors = dict(bundle.model.state_dict())
    for name in (_EMBEDDING, _OUTPUT):
        if name in tensors:
            tensors[name] = resized(tensors[name], rows, bundle.tokenizer.vocab_size, origins)
    model.load_state_dict(tensors, assign=True)
    save_bundle(out, model.eval(), tokenizer)
    return rows


def resized(old: Tensor, rows: int, used: int, origins: Mapping[int, tuple[int, ...]]) -> Tensor:
    """`old` (tokens × width), of which `used` rows are tokens', with `rows` rows; means taken in float32."""
    new = torch.empty(rows, old.shape[1], dtype=old.dtype)
    new[: len(old)] = old
    mean = old[:used].float().mean(dim=0).to(old.dtype)
    new[len(old) :] = mean
    for id, origin in origins.items():
        new[id] = old[list(origin)].float().mean(dim=0).to(old.dtype) if origin else mean
    return new
