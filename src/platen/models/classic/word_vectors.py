"""Word vectors: CBoW and skip-gram with negative sampling (Mikolov et al., 2013).

`train_vectors` takes sentences of words and gives `WordVectors`: nearest neighbours, analogies, and a text's
vector as the mean of its words'. A word's vector is the mean of what it is as input and as output.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from platen.core.errors import BundleError, DataError
from platen.core.files import replaced_folder
from platen.core.progress import Progress, SilentProgress
from platen.models.classic.words import FIRST_WORD, UNKNOWN, VECTORS_FILE, Vocabulary

Kind = Literal["cbow", "skipgram"]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class VectorOptions:
    """`window` words on either side at most, `negatives` drawn words for each true one."""

    kind: Kind = "skipgram"
    size: int = 100
    window: int = 5
    negatives: int = 5
    min_count: int = 2
    epochs: int = 5
    batch: int = 1024
    learning_rate: float = 0.01
    subsample: float = 1e-3
    """Words of a greater share of the text are left out at random, the more the more common they are."""
    seed: int = 0


@dataclass(frozen=True)
class WordVectors:
    """`vectors` (V, C) by the ids of `vocabulary`; the special ids' are zero."""

    vocabulary: Vocabulary
    vectors: Vectors

    def __getitem__(self, word: str) -> Vectors:
        """A word's vector (C,). Raises KeyError for an unknown word."""
        id = self.vocabulary.id(word)
        if id == UNKNOWN:
            raise KeyError(word)
        vector: Vectors = self.vectors[id]
        return vector

    def nearest(
        self, target: str | Vectors, count: int = 10, *, without: Sequence[str] = ()
    ) -> list[tuple[str, float]]:
        """The words most alike a word or a vector, with their cosines; a word is not its own neighbour."""
        vector = self[target] if isinstance(target, str) else target
        cosines: Vectors = unit(self.vectors) @ unit(vector)
        cosines[:FIRST_WORD] = -np.inf
        left_out = [*without, target] if isinstance(target, str) else without
        cosines[[self.vocabulary.id(word) for word in left_out]] = -np.inf
        best = np.argsort(-cosines, kind="stable")[:count]
        return [
            (self.vocabulary.word(int(id)), float(cosines[id])) for id in best if np.isfinite(cosines[id])
        ]

    def analogy(self, a: str, b: str, c: str, count: int = 1) -> list[tuple[str, float]]:
        """What is to `c` as `b` is to `a`: analogy("man", "woman", "king") is queen."""
        return self.nearest(unit(self[b]) - unit(self[a]) + unit(self[c]), count, without=(a, b, c))

    def text_vector(self, tokens: Sequence[str]) -> Vectors:
        """The mean of the known words' vectors (C,); zero for a text without any."""
        ids = self.vocabulary.ids(tokens)
        known = ids[ids >= FIRST_WORD]
        if not len(known):
            return np.zeros_like(self.vectors[0])
        mean: Vectors = self.vectors[known].mean(axis=0)
        return mean

    def save(self, folder: Path) -> None:
        """Write the vectors as a folder; one that is there is replaced once the new one is complete."""
        about = {"kind": "word_vectors", "size": self.vectors.shape[1]}
        with replaced_folder(folder, VECTORS_FILE) as new:
            save_file({"vectors": self.vectors}, new / "model.safetensors")
            self.vocabulary.save(new)
            (new / VECTORS_FILE).write_text(json.dumps(about) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> WordVectors:
        """Open what `save` wrote. Raises BundleError when it is damaged."""
        try:
            vocabulary = Vocabulary.load(folder)
            vectors = load_file(folder / "model.safetensors")["vectors"]
            if len(vectors) != len(vocabulary):
                raise ValueError("words and vectors differ in number")
        except (OSError, ValueError, KeyError, IndexError, SafetensorError) as error:
            raise BundleError(
                f"{folder} holds no word vectors: {error}", hint="Train and save them again."
            ) from None
        return cls(vocabulary, vectors)


def unit(vectors: Vectors) -> Vectors:
    """Each vector with length 1; zero stays zero."""
    lengths: Vectors = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: Vectors = np.divide(vectors, np.where(lengths > 0, lengths, 1), dtype=np.float32)
    return result


class NegativeSampling(nn.Module):
    """Two vectors a word: as input and as output."""

    def __init__(self, vocab_size: int, size: int) -> None:
        super().__init__()
        self.inputs = nn.Embedding(vocab_size, size, sparse=True)
        self.outputs = nn.Embedding(vocab_size, size, sparse=True)
        nn.init.uniform_(self.inputs.weight, -0.5 / size, 0.5 / size)
        nn.init.zeros_(self.outputs.weight)

    def forward(self, given: Tensor, wanted: Tensor, drawn: Tensor) -> Tensor:
        """Mean of -log σ(o·h) - Σ log σ(-n·h): h the mean of the input vectors of `given` (B, W), where -1
        is no word, o the output vector of `wanted` (B,), n those of `drawn` (B, K)."""
        there = (given >= 0)[..., None]
        h = (self.inputs(given.clamp(min=0)) * there).sum(dim=1) / there.sum(dim=1)
        true = (self.outputs(wanted) * h).sum(dim=-1)
        false = torch.einsum("bkc,bc->bk", self.outputs(drawn), h)
        return -(F.logsigmoid(true) + F.logsigmoid(-false).sum(dim=-1)).mean()


def train_vectors(
    sentences: Sequence[Sequence[str]], options: VectorOptions, progress: Progress | None = None
) -> WordVectors:
    """Train. The same seed gives the same vectors. Raises DataError when no word has a neighbour."""
    counts = Counter(word for sentence in sentences for word in sentence)
    vocabulary = Vocabulary.of(counts, options.min_count)
    ids = [row[row >= FIRST_WORD] for row in map(vocabulary.ids, sentences)]
    if not any(len(row) > 1 for row in ids):
        raise DataError(
            f"no sentence has two words that occur {options.min_count} times", hint="Give more text."
        )
    generator = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    model = NegativeSampling(len(vocabulary), options.size)
    optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=options.learning_rate)
    frequency = np.bincount(np.concatenate(ids), minlength=len(vocabulary))
    draw = np.cumsum(frequency**0.75)
    with (progress or SilentProgress()).task("word vectors", total=options.epochs, unit="epochs") as task:
        for epoch in range(options.epochs):
            for share, given, wanted in _batches(ids, frequency, options, generator):
                chance = generator.random((len(wanted), options.negatives)) * draw[-1]
                drawn = np.searchsorted(draw, chance, side="right")
                optimizer.zero_grad()
                loss = model(torch.from_numpy(given), torch.from_numpy(wanted), torch.from_numpy(drawn))
                loss.backward()
                optimizer.step()  # type: ignore[no-untyped-call]
                task.update(epoch + share, note=f"loss {loss.item():.3f}")
    vectors: Vectors = ((model.inputs.weight + model.outputs.weight) / 2).detach().numpy()
    vectors[:FIRST_WORD] = 0
    return WordVectors(vocabulary, vectors)


def _batches(
    sentences: Sequence[NDArray[np.int64]],
    frequency: NDArray[np.int64],
    options: VectorOptions,
    generator: np.random.Generator,
) -> Iterator[tuple[float, NDArray[np.int64], NDArray[np.int64]]]:
    """One epoch, shuffled: the share done, what is given (B, W) and what is wanted (B,)."""
    share = frequency / frequency.sum()
    keep = np.sqrt(options.subsample / np.maximum(share, options.subsample))
    kept = [row[generator.random(len(row)) < keep[row]] for row in sentences]
    windows = np.concatenate([_windows(row, options.window, generator) for row in kept if len(row) > 1])
    if options.kind == "skipgram":
        places = np.argwhere(windows[:, 1:] >= 0)
        wanted, given = windows[places[:, 0], places[:, 1] + 1], windows[places[:, 0], :1]
    else:
        wanted, given = windows[:, 0], windows[:, 1:]
    order = generator.permutation(len(wanted))
    for begin in range(0, len(order), options.batch):
        batch = order[begin : begin + options.batch]
        yield min(1.0, (begin + len(batch)) / len(order)), given[batch], wanted[batch]


def _windows(row: NDArray[np.int64], window: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(T, 1 + 2 × window): each word, then those around it, -1 where there is none.

    How far a window reaches is drawn, so nearer words count more.
    """
    reach = generator.integers(1, window + 1, size=len(row))
    offsets = np.array([offset for offset in range(-window, window + 1) if offset])
    at = np.arange(len(row))[:, None] + offsets
    there = (at >= 0) & (at < len(row)) & (np.abs(offsets) <= reach[:, None])
    around = np.where(there, row[np.clip(at, 0, len(row) - 1)], -1)
    return np.concatenate([row[:, None], around], axis=1)
