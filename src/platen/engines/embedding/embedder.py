"""Texts to vectors: the last hidden states of a model, pooled.

`open_embedder` opens a bundle of any family that `models.arch` has, a sentence-transformers folder of an
encoder (BERT and its kin, through transformers), or a graph of any of them (`embedding_graph`). Letters in
shapes: B texts, T tokens, C hidden size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from platen.core.errors import BundleError
from platen.models.arch.families import architectures as decoders
from platen.models.bundle import open_bundle
from platen.models.folder import bundle_fingerprint, find_bundle, read_json
from platen.models.hub_models import open_transformers, positions
from platen.models.sentence import GRAPHS, Backend, Pooling, SentenceConfig, read_sentence_config
from platen.models.store import remembered_digests
from platen.prompts.encoding import text_prompt
from platen.tokens.tokenizer import Tokenizer

ENCODER_ADVICE = "Take a folder with safetensors of an encoder such as BERT."

MAX_BATCH_TOKENS = 8192
"""Tokens computed at once, padding included."""
MAX_BATCH_TEXTS = 64
MAX_PADDING = 64
"""Padding worth computing: a further call costs about as much as so many tokens."""

Vectors = NDArray[np.float32]


class Encoder(Protocol):
    """A network below its output layer."""

    name: str
    hidden_size: int
    vocab_size: int
    max_tokens: int
    parameters: int

    def token_ids(self, texts: Sequence[str], limit: int | None) -> list[list[int]]:
        """Ids of each text, special tokens included, of a longer one the first `limit`."""
        ...

    def hidden_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T, C) of ids (B, T) padded on the right; the mask (B, T) is 1 at real tokens."""
        ...


@dataclass(frozen=True)
class Embedder:
    """An open embedding model. Safe to share between threads.

    `fingerprint` is a hash that changes when the vectors do.
    """

    encoder: Encoder
    config: SentenceConfig
    path: Path
    fingerprint: str

    @property
    def dimensions(self) -> int:
        return self.encoder.hidden_size

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text that is read whole."""
        own = self.encoder.max_tokens
        return own if self.config.max_tokens is None else min(own, self.config.max_tokens)

    def token_ids(self, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
        """Ids of each text as `embed` takes them, of a longer one the first `limit`.

        Raises ValueError when a text has no tokens.
        """
        prompted = [self.config.prompt + text for text in texts]
        if self.config.lowercase:
            prompted = [text.lower() for text in prompted]
        return self.encoder.token_ids(prompted, limit)

    def embed(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """One vector (C,) for each list of ids, in their order.

        Lists of like length are computed together. Raises ValueError as `check` does.
        """
        for ids in batch:
            self.check(ids)
        vectors = np.empty((len(batch), self.dimensions), dtype=np.float32)
        with torch.inference_mode():
            for part in _parts(batch):
                vectors[part] = self._pooled([batch[index] for index in part]).numpy()
        return vectors

    def check(self, ids: Sequence[int]) -> None:
        """Raises ValueError for a list that is empty or too long, and for ids that no token has."""
        if not ids:
            raise ValueError("a text has no tokens")
        if len(ids) > self.max_tokens:
            raise ValueError(f"a text of {len(ids)} tokens is longer than the model's {self.max_tokens}")
        if not 0 <= min(ids) <= max(ids) < self.encoder.vocab_size:
            raise ValueError(f"a token id is not below {self.encoder.vocab_size}")

    def _pooled(self, batch: Sequence[Sequence[int]]) -> Tensor:
        lengths = torch.tensor([len(ids) for ids in batch])
        ids = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
        for row, tokens in zip(ids, batch, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        hidden = self.encoder.hidden_states(ids, mask.long()).float()
        vectors = pool(hidden, lengths, self.config.pooling)
        return torch.nn.functional.normalize(vectors, dim=-1) if self.config.normalize else vectors


def pool(hidden: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """One vector (B, C) of the first `lengths` (B,) hidden states (B, T, C) of each row."""
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(lengths)), lengths - 1]
    real = (torch.arange(hidden.shape[1]) < lengths[:, None])[..., None]
    if pooling == "max":
        return hidden.masked_fill(~real, float("-inf")).amax(dim=1)
    return (hidden * real).sum(dim=1) / lengths[:, None]


def _parts(batch: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The indices of a batch, longest lists first, cut into pieces that are computed at once."""
    part: list[int] = []
    longest = padding = 0
    for index in sorted(range(len(batch)), key=lambda index: -len(batch[index])):
        length = len(batch[index])
        padding += longest - length
        full = len(part) == MAX_BATCH_TEXTS or (len(part) + 1) * longest > MAX_BATCH_TOKENS
        if part and (full or padding > MAX_PADDING):
            yield part
            part = []
        if not part:
            longest, padding = length, 0
        part.append(index)
    if part:
        yield part


class LlamaEncoder:
    """A bundle's own network. It looks back only, so padding on the right changes nothing."""

    name = "torch"

    def __init__(self, path: Path) -> None:
        bundle = open_bundle(path, dtype=torch.float32)
        self._model, self._tokenizer = bundle.model, bundle.tokenizer
        self.hidden_size, self.vocab_size = bundle.config.hidden_size, bundle.config.vocab_size
        self.max_tokens = bundle.config.max_position_embeddings
        self.parameters = bundle.config.num_parameters()

    def token_ids(self, texts: Sequence[str], limit: int | None) -> list[list[int]]:
        return llama_ids(self._tokenizer, texts, limit)

    def hidden_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self._model.hidden_states(ids)


def llama_ids(tokenizer: Tokenizer, texts: Sequence[str], limit: int | None) -> list[list[int]]:
    """Ids of each text as a Llama reads it. Raises ValueError for one without any."""
    return [text_prompt(tokenizer, text)[:limit] for text in texts]


class TransformersEncoder:
    """An encoder that transformers knows, such as BERT."""

    name = "transformers"

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_dir(path)
        self.network: Any = open_transformers(path, "AutoModel", advice=ENCODER_ADVICE, complete=False)
        config = self.network.config
        if config.is_encoder_decoder:
            raise BundleError(
                f"{path} is an encoder-decoder", hint="Platen embeds with encoders and decoders."
            )
        self.hidden_size, self.vocab_size = config.hidden_size, config.vocab_size
        self.max_tokens = positions(config)
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())

    def token_ids(self, texts: Sequence[str], limit: int | None) -> list[list[int]]:
        return self._tokenizer.encode_with_special_tokens(texts, limit=limit)

    def hidden_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden


def open_embedder(
    path_or_name: Path | str, *, pooling: Pooling | None = None, backend: Backend | None = None
) -> Embedder:
    """Open an embedding model; `pooling` overrides what its folder says, by default the mean.

    `backend` None takes the weights, or a graph where there are none. Raises BundleError when the folder
    can't be opened, MissingExtraError.
    """
    path = find_bundle(path_or_name, graph=None if backend in (None, "torch") else GRAPHS[backend])
    config = read_sentence_config(path, pooling)
    architectures = read_json(path / "config.json").get("architectures") or [""]
    llama = architectures[0] in decoders()
    backend = _usable_backend(path, backend)
    with remembered_digests() as digest:
        if backend == "torch":
            encoder: Encoder = LlamaEncoder(path) if llama else TransformersEncoder(path)
            weights = bundle_fingerprint(path, digest)
        else:
            from platen.engines.embedding.graph import GraphEncoder, graph_fingerprint

            encoder = GraphEncoder(path, backend, llama=llama)
            weights = graph_fingerprint(path, backend, digest)
    fingerprint = hashlib.sha256(f"{weights} {config}".encode()).hexdigest()[:16]
    return Embedder(encoder, config, path, fingerprint)


def _usable_backend(path: Path, asked: Backend | None) -> Backend:
    """What is asked for; else the weights, or a graph where there are none.

    Raises BundleError for a folder with another graph alone, of which nothing else can be made.
    """
    graphs = [backend for backend, file in GRAPHS.items() if (path / file).is_file()]
    if any(path.glob("*.safetensors")) or not graphs:
        return asked or "torch"
    if asked is not None and asked not in graphs:
        raise BundleError(
            f"{path} has a graph for {' and '.join(graphs)}, and no weights",
            hint="Embed without --backend, or give the model that the graph was made from.",
        )
    return asked or graphs[0]
