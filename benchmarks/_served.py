"""A small model of random weights for the checks that need a server and no particular speed."""

from __future__ import annotations

import itertools
import string
from pathlib import Path

import torch

from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.models.bundle import save_bundle
from platen.tokens.tokenizer import Tokenizer

FULL = DecoderConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
    eos_token_id=0,
)
"""135 million parameters, the shape of SmolLM2-135M."""
SMALL = DecoderConfig(
    vocab_size=4096,
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=64,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
    eos_token_id=0,
)
TINY = DecoderConfig(
    vocab_size=512,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=128,
    tie_word_embeddings=True,
    eos_token_id=0,
)


def make_bundle(folder: Path, config: DecoderConfig) -> None:
    """A bundle of random weights, in bfloat16 as models are published.

    Its tokenizer is a byte-level one filled up to the vocabulary's size.
    """
    torch.manual_seed(0)
    save_bundle(folder, Decoder(config).bfloat16(), make_tokenizer(config.vocab_size))


def make_tokenizer(size: int) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # ASCII words, so that each token is text by itself and a stream has one piece for each.
    pairs = list(itertools.product(string.ascii_lowercase, repeat=2))
    merges = [*pairs, *itertools.product(map("".join, pairs), repeat=2)][: size - len(letters) - 1]
    tokens = ["<|end|>", *letters, *map("".join, merges)]
    backend = Backend(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    backend.add_special_tokens(["<|end|>"])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    return Tokenizer(backend.to_str().encode(), config)
