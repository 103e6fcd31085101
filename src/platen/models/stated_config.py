"""What a model's `config.json` says of itself, whatever its architecture.

Engines of our own compute the architectures that `models` has; others run what they know, and need of a model
no more than its vocabulary, its context window and the tokens that end its text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platen.core.errors import BundleError

if TYPE_CHECKING:
    from platen.models.arch.config import DecoderConfig
    from platen.models.gguf import GgufModel

_WINDOWS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length")
_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class StatedConfig:
    """A parsed `config.json`; of a model of several kinds of input, the part that says what writes text."""

    raw: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> StatedConfig:
        """Raises BundleError when the folder has none, or it is damaged."""
        from platen.models.folder import read_json

        return cls(read_json(folder / "config.json"))

    @classmethod
    def of_gguf(cls, file: GgufModel) -> StatedConfig:
        """What the metadata of a GGUF file say, under the keys of a `config.json`."""
        return cls(
            {
                "architectures": [file.architecture],
                "vocab_size": file.vocab_size,
                "max_position_embeddings": file.context_window,
                "eos_token_id": list(file.eos_ids),
            }
        )

    @property
    def architecture(self) -> str:
        """The class that transformers would open it with."""
        names = self.raw.get("architectures") or [f"model_type {self.raw.get('model_type', 'missing')!r}"]
        return str(names[0])

    @cached_property
    def decoder(self) -> DecoderConfig | None:
        """As a network of `models.arch`; None when it is none of those."""
        from platen.models.arch.config import DecoderConfig

        try:
            return DecoderConfig.from_hf(self.raw)
        except BundleError:
            return None

    @property
    def vocab_size(self) -> int:
        """Entries of the embedding. Raises BundleError when it is not said."""
        return self._count("vocab_size") if self.decoder is None else self.decoder.vocab_size

    @property
    def context_window(self) -> int:
        """Tokens in one sequence. Raises BundleError when it is not said."""
        return self._count(*_WINDOWS) if self.decoder is None else self.decoder.max_position_embeddings

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every id that ends a sequence."""
        found = self.raw.get("eos_token_id")
        if found is None:
            found = self._text.get("eos_token_id")
        return () if found is None else (found,) if isinstance(found, int) else tuple(found)

    @property
    def tied_output(self) -> bool:
        """Whether the output layer is the embedding."""
        return bool(self._text.get("tie_word_embeddings", self.raw.get("tie_word_embeddings", False)))

    def stated(self, key: str) -> Any:
        """What is said under a key of config.json; None when nothing is."""
        return self._text.get(key, self.raw.get(key))

    @property
    def _text(self) -> Mapping[str, Any]:
        nested = self.raw.get("text_config")
        return nested if isinstance(nested, Mapping) else self.raw

    def _count(self, *keys: str) -> int:
        for key in keys:
            value = self.stated(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        raise BundleError(
            f"config.json of a {self.architecture} has no positive whole number under {keys[0]}",
            hint="Take config.json again from where the model comes from.",
        )


def count_parameters(folder: Path, config: StatedConfig) -> int:
    """Numbers in a folder's safetensors, by their headers; an output layer that is tied counts once.

    0 where there are none. Raises BundleError for a damaged file.
    """
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in _header(file).items():
            if name == "__metadata__" or (config.tied_output and name == "lm_head.weight"):
                continue
            total += prod(tensor["shape"])
    return total


def _header(file: Path) -> Mapping[str, Any]:
    """The format's beginning: 8 bytes of length, little-endian, then so many bytes of JSON."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
            if length > _MOST_HEADER_BYTES:
                raise ValueError(f"a header of {length:,} bytes")
            header = json.loads(opened.read(length))
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} is damaged: {error}", hint="Copy the model again.") from None
    if not isinstance(header, dict):
        raise BundleError(f"{file} is damaged: its header is no object", hint="Copy the model again.")
    return header
