"""A GGUF file as a model: what its metadata say of network and tokenizer, without its weights.

A tokenizer of many tokens takes seconds to make from the metadata, so it is kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from platen.core.artifacts import sha256_file
from platen.core.errors import BundleError
from platen.models.store import cache_folder
from platen.tokens.gguf_header import GgufHeader, read_header, read_shards
from platen.tokens.gguf_vocabulary import end_ids, vocabulary_of
from platen.tokens.tokenizer import Tokenizer

_CACHED_FROM = 30_000
"""Tokens of a vocabulary that is worth keeping."""
_MOST_CACHED = 8
_READING = "1"
"""Changes with the code that makes tokenizers, so that none made otherwise is taken from the cache."""
_NO_WEIGHTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True)
class GgufModel:
    """What is known of a model before its weights are read."""

    header: GgufHeader
    shards: tuple[GgufHeader, ...]
    """All its files' heads, `header` first."""

    @classmethod
    def open(cls, path: Path) -> GgufModel:
        """Read a file's metadata. Raises BundleError when it can't be read or holds no language model."""
        header = read_header(path)
        for key in ("context_length", "block_count", "embedding_length"):
            if not header.of_architecture(key):
                raise BundleError(
                    f"{path} holds no language model: it has no {header.architecture}.{key}",
                    hint="Give the file of the model itself, not of a projector, an adapter or a vocabulary.",
                )
        return cls(header, tuple(read_shards(header)))

    @property
    def path(self) -> Path:
        return self.header.path

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the network."""
        return self.header.architecture

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def context_window(self) -> int:
        """Tokens that the model was made for."""
        return int(self.header.of_architecture("context_length"))

    @cached_property
    def vocab_size(self) -> int:
        """Rows of the embedding: logits of a token."""
        found = next((t for t in self.header.tensors if t.name == "token_embd.weight"), None)
        return len(self.header.of_tokenizer("tokens", ())) if found is None else found.shape[0]

    @property
    def num_layers(self) -> int:
        return int(self.header.of_architecture("block_count"))

    @cached_property
    def kv_elements_per_token(self) -> int:
        """Numbers that a token has in the key/value cache, over all layers."""
        heads = self.header.of_architecture("attention.head_count")
        grouped = self.header.of_architecture("attention.head_count_kv", heads)
        per_layer = [grouped] * self.num_layers if isinstance(grouped, int) else list(grouped)
        queries = heads if isinstance(heads, int) else max(heads)
        width = self.header.of_architecture("embedding_length") // queries
        key = self.header.of_architecture("attention.key_length", width)
        value = self.header.of_architecture("attention.value_length", width)
        return int(sum(per_layer) * (key + value))

    @cached_property
    def parameters(self) -> int:
        """Numbers in its weights; an output layer tied to the embedding counts once."""
        tensors = (tensor for shard in self.shards for tensor in shard.tensors)
        return sum(tensor.elements for tensor in tensors if tensor.name not in _NO_WEIGHTS)

    @cached_property
    def weights(self) -> str:
        """How most of its numbers are kept, such as `q4_k`."""
        kinds: Counter[str] = Counter()
        for shard in self.shards:
            for tensor in shard.tensors:
                kinds[tensor.type_name] += tensor.elements
        return kinds.most_common(1)[0][0] if kinds else "none"

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Every token that ends an answer."""
        return end_ids(self.header)

    def fingerprint(self, digest: Callable[[Path], str] = sha256_file) -> str:
        """Hash of all its files: 16 hex digits. `digest` gives a file's SHA-256, from memory perhaps."""
        total = hashlib.sha256()
        for shard in self.shards:
            total.update(f"{digest(shard.path)}\n".encode())
        return total.hexdigest()[:16]

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, with its chat template.

        Raises ConversionError for one that can't be told exactly.
        """
        if len(self.header.of_tokenizer("tokens", ())) < _CACHED_FROM:
            return vocabulary_of(self.header)
        folder = cache_folder() / "tokenizers" / self._head_digest()
        if folder.is_dir():
            with suppress(BundleError, OSError):  # another process may be removing it
                return Tokenizer.from_dir(folder)
        tokenizer = vocabulary_of(self.header)
        with suppress(OSError):  # nowhere to keep it: it is made again next time
            _keep(tokenizer, folder)
        return tokenizer

    def _head_digest(self) -> str:
        """Hash of all that stands before the weights."""
        end = min((tensor.offset for tensor in self.header.tensors), default=-1)
        with self.path.open("rb") as file:
            return hashlib.sha256(_READING.encode() + file.read(end)).hexdigest()[:32]


def _keep(tokenizer: Tokenizer, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
    try:
        tokenizer.save(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    kept = sorted((one for one in folder.parent.iterdir() if one.name[0] != "."), key=_changed)
    for old in kept[:-_MOST_CACHED]:
        shutil.rmtree(old, ignore_errors=True)


def _changed(path: Path) -> float:
    return path.stat().st_mtime
