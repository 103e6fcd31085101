"""One way to open whatever makes vectors of texts: embedding models, any bundle, word vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import ConfigError, DataError
from platen.models.classic.words import VECTORS_FILE
from platen.models.sentence import Backend, Pooling, read_prompts
from platen.models.store import remembered_digests
from platen.retrieve.stamp import Stamp

if TYPE_CHECKING:
    from platen.engines.embedding.embedder import Embedder
    from platen.models.classic.word_vectors import WordVectors

Vectors = NDArray[np.float32]
Role = Literal["document", "query"]
_PROMPTS = {"document": ("document", "passage", "corpus"), "query": ("query",)}
"""Names that a role's prompt has in a model's folder, the likelier first, as sentence-transformers has it."""


@dataclass(frozen=True)
class Embedded:
    """Vectors (N, C), and of each whether only its text's beginning was read."""

    vectors: Vectors
    cut: list[bool]


class UnreadableText(DataError):
    """A text that has no vector."""

    def __init__(self, text: str, message: str) -> None:
        super().__init__(message)
        self.text = text


class TextModel(Protocol):
    """What makes vectors of texts. The stamp says all that their values depend on."""

    @property
    def stamp(self) -> Stamp: ...

    def embed(self, texts: Sequence[str]) -> Embedded:
        """A vector for each text. Raises UnreadableText for one that has none."""
        ...


@dataclass(frozen=True)
class NetworkModel:
    """The pooled last hidden states of a network."""

    stamp: Stamp
    embedder: Embedder

    def embed(self, texts: Sequence[str]) -> Embedded:
        limit = self.embedder.max_tokens
        try:
            ids = self.embedder.token_ids(texts, limit + 1)
            cut = [len(tokens) > limit for tokens in ids]
            for index in (index for index, long in enumerate(cut) if long):
                # Anew, since what frames a text ends the shorter one too.
                ids[index] = self.embedder.token_ids([texts[index]], limit)[0]
            return Embedded(self.embedder.embed(ids), cut)
        except ValueError:
            for text in texts:  # once more one by one, to tell which it is
                self._check(text)
            raise

    def _check(self, text: str) -> None:
        try:
            self.embedder.check(self.embedder.token_ids([text], self.embedder.max_tokens)[0])
        except ValueError as error:
            raise UnreadableText(text, f"{self.stamp.model} can't embed it: {error}") from None


@dataclass(frozen=True)
class WordModel:
    """The mean of a text's known words' vectors, of length 1; zero when the text has none."""

    stamp: Stamp
    words: WordVectors

    def embed(self, texts: Sequence[str]) -> Embedded:
        from platen.models.classic.word_vectors import unit
        from platen.models.classic.words import words

        vectors = np.stack([self.words.text_vector(words(text)) for text in texts])
        return Embedded(unit(vectors), [False] * len(texts))


def open_model(
    path_or_name: Path | str,
    *,
    role: Role,
    prompt: str | None = None,
    pooling: Pooling | None = None,
    backend: Backend | None = None,
    name: str | None = None,
) -> TextModel:
    """Open a model for texts in a role; `prompt` names one of its prompts, by default the role's.

    `backend` as `open_embedder` takes it.

    Raises BundleError, MissingExtraError, and ConfigError for a prompt that the model does not have.
    """
    name = name or Path(path_or_name).resolve().name
    if (Path(path_or_name) / VECTORS_FILE).is_file():
        if any(option is not None for option in (prompt, pooling, backend)):
            raise ConfigError(f"{name} has word vectors, which take no prompt, pooling or backend")
        return _open_words(Path(path_or_name), name)
    from platen.engines.embedding.embedder import open_embedder

    embedder = open_embedder(path_or_name, pooling=pooling, backend=backend)
    text = _prompt(embedder.path, name, role, prompt, embedder.config.prompt)
    config = replace(embedder.config, prompt=text)
    # The fingerprint stays that of the model as its folder has it: queries and documents are to be compared.
    stamp = Stamp(
        model=name,
        fingerprint=embedder.fingerprint,
        pooling=config.pooling,
        normalized=config.normalize,
        dimensions=embedder.dimensions,
        prompt=text,
        backend=embedder.encoder.name,
    )
    return NetworkModel(stamp, replace(embedder, config=config))


def _prompt(path: Path, name: str, role: Role, asked: str | None, default: str) -> str:
    prompts = read_prompts(path)
    if asked is None:
        return next((prompts[known] for known in _PROMPTS[role] if known in prompts), default)
    if asked not in prompts:
        known = ", ".join(prompts)
        raise ConfigError(
            f"{name} has no prompt {asked!r}",
            hint=f"It has {known}." if known else "Its folder names none: leave --prompt out.",
        )
    return prompts[asked]


def _open_words(path: Path, name: str) -> WordModel:
    from platen.models.classic.word_vectors import WordVectors

    words = WordVectors.load(path)
    with remembered_digests() as digest:
        files = ("model.safetensors", "words.npy", "word_ends.npy")
        identity = " ".join(digest(path / file) for file in files)
    fingerprint = sha256(identity.encode()).hexdigest()[:16]
    return WordModel(Stamp(name, fingerprint, "mean of words", True, words.vectors.shape[1]), words)
