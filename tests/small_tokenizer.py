"""The one small tokenizer of the tests: byte-level, trained on a few texts, `<|end|>` (id 0) ends a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from platen.tokens.tokenizer import Tokenizer


def small_tokenizer(
    texts: Sequence[str], size: int, *, special: Sequence[str] = (), **config: object
) -> Tokenizer:
    """With `size` entries and the `special` tokens after them; `config` goes into its configuration."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    from platen.tokens.tokenizer import Tokenizer

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens(list(special))
    return Tokenizer(backend.to_str().encode(), {"eos_token": "<|end|>", "pad_token": "<|end|>"} | config)
