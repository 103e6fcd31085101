"""Trained text classifiers: an MLP over a bag of words, and RNN and LSTM over the words in their order.

`train_classifier` takes texts and labels and keeps the weights of the epoch with the least loss on a part of
the texts held out. It is saved as safetensors, with its vocabulary, and answers as `NaiveBayes` does.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from platen.core.errors import BundleError, DataError
from platen.core.progress import Progress, SilentProgress
from platen.models.classic.mlp import MLP
from platen.models.classic.recurrent import Recurrent
from platen.models.classic.words import Vocabulary, words

Ids = NDArray[np.int64]
ClassifierKind = Literal["mlp", "rnn", "lstm"]
_PAD = 0
"""The id of a sentence's start, which no text has, fills rows up."""


@dataclass(frozen=True)
class ClassifierOptions:
    """`hidden` units a layer; `max_words` of a text are read; `steps` and `seconds` bound the training."""

    kind: ClassifierKind = "lstm"
    size: int = 64
    hidden: int = 64
    layers: int = 2
    dropout: float = 0.5
    max_words: int = 200
    min_count: int = 2
    epochs: int = 10
    patience: int = 2
    """Epochs without a better loss after which training ends."""
    batch: int = 32
    learning_rate: float = 3e-3
    held_out: float = 0.1
    steps: int = 1_000_000
    seconds: float = 3600.0
    seed: int = 0


class BagNetwork(nn.Module):
    """The mean of the words' vectors through an MLP."""

    def __init__(self, vocab_size: int, labels: int, options: ClassifierOptions) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, options.size)
        self.mlp = MLP(options.size, options.hidden, labels, activation="relu")

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, labels) of ids (B, T), of which `lengths` (B,) are words."""
        real = (torch.arange(ids.shape[1]) < lengths[:, None])[..., None]
        return self.mlp((self.embedding(ids) * real).sum(dim=1) / lengths[:, None])  # type: ignore[no-any-return]


class SequenceNetwork(nn.Module):
    """Words' vectors through recurrent layers in both directions; the last states through a linear one."""

    def __init__(self, vocab_size: int, labels: int, options: ClassifierOptions) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, options.size)
        self.dropout = nn.Dropout(options.dropout)
        cell: Literal["rnn", "lstm"] = "rnn" if options.kind == "rnn" else "lstm"
        self.recurrent = Recurrent(
            cell,
            options.size,
            options.hidden,
            layers=options.layers,
            bidirectional=True,
            dropout=options.dropout,
        )
        self.head = nn.Linear(2 * options.hidden, labels)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, labels) of ids (B, T), of which `lengths` (B,) are words."""
        _, (hidden, _) = self.recurrent(self.dropout(self.embedding(ids)), lengths)
        both = torch.cat([hidden[-2], hidden[-1]], dim=-1)
        return self.head(self.dropout(both))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TextClassifier:
    """A trained classifier in evaluation mode. Safe to share between threads."""

    labels: tuple[str, ...]
    vocabulary: Vocabulary
    network: BagNetwork | SequenceNetwork
    options: ClassifierOptions

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(N, L): how likely each label is, for each text."""
        rows = [_ids(text, self.vocabulary, self.options) for text in texts]
        result = np.zeros((len(texts), len(self.labels)))
        with torch.inference_mode():
            for part in _cut(np.argsort([len(row) for row in rows], kind="stable"), 256):
                logits = self.network(*_padded([rows[index] for index in part]))
                result[part] = logits.softmax(dim=-1).numpy()
        return result

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text."""
        return [self.labels[best] for best in self.probabilities(texts).argmax(axis=1)]

    def save(self, folder: Path) -> None:
        """Write `classifier.json`, `model.safetensors` and the vocabulary into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        about = {"kind": self.options.kind, "labels": self.labels, "options": asdict(self.options)}
        (folder / "classifier.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        save_file(self.network.state_dict(), folder / "model.safetensors")
        self.vocabulary.save(folder)

    @classmethod
    def load(cls, folder: Path) -> TextClassifier:
        """Open what `save` wrote. Raises BundleError when it is damaged or something else."""
        try:
            about = json.loads((folder / "classifier.json").read_text("utf-8"))
            options = ClassifierOptions(**about["options"])
            vocabulary = Vocabulary.load(folder)
            network = _network(len(vocabulary), len(about["labels"]), options)
            network.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, SafetensorError) as error:
            raise BundleError(
                f"{folder} holds no trained classifier: {str(error).splitlines()[0]}", hint="Train it again."
            ) from None
        return cls(tuple(about["labels"]), vocabulary, network.eval(), options)


def train_classifier(
    texts: Sequence[str],
    labels: Sequence[str],
    options: ClassifierOptions,
    progress: Progress | None = None,
) -> TextClassifier:
    """Train; the same seed gives the same weights unless time cuts it short.

    Raises DataError for fewer than two labels or texts too few to hold any out.
    """
    names = tuple(sorted(set(labels)))
    held = int(len(texts) * options.held_out)
    if len(names) < 2 or not held:
        raise DataError(
            f"{len(texts)} texts of {len(names)} labels are too few to train and check a classifier",
            hint="Give ten texts or more, of two labels or more.",
        )
    generator = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    mixed = generator.permutation(len(texts))
    training, checking = mixed[held:], mixed[:held]
    vocabulary = Vocabulary.of(Counter(w for i in training for w in words(texts[i])), options.min_count)
    rows = [_ids(text, vocabulary, options) for text in texts]
    examples = _Examples(rows, torch.tensor([names.index(label) for label in labels]))
    network = _network(len(vocabulary), len(names), options)
    best, kept, since = float("inf"), network.state_dict(), 0
    optimizer = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
    deadline, step = time.monotonic() + options.seconds, 0
    with (progress or SilentProgress()).task(options.kind, total=options.epochs, unit="epochs") as task:
        for epoch in range(options.epochs):
            network.train()
            for part in examples.batches(generator.permutation(training), options.batch, generator):
                optimizer.zero_grad()
                examples.loss(network, part).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                step += 1
                if step >= options.steps or time.monotonic() > deadline:
                    break
            network.eval()
            with torch.inference_mode():
                loss = float(examples.loss(network, checking))
            task.update(epoch + 1, note=f"held-out loss {loss:.3f}")
            since = 0 if loss < best else since + 1
            if loss < best:
                best, kept = loss, {name: tensor.clone() for name, tensor in network.state_dict().items()}
            if since > options.patience or step >= options.steps or time.monotonic() > deadline:
                break
    network.load_state_dict(kept)
    return TextClassifier(names, vocabulary, network.eval(), options)


@dataclass(frozen=True)
class _Examples:
    """All texts' ids, and the numbers of their labels (N,)."""

    rows: Sequence[Ids]
    answers: Tensor

    def loss(self, network: nn.Module, part: Ids) -> Tensor:
        logits = network(*_padded([self.rows[index] for index in part]))
        return F.cross_entropy(logits, self.answers[part])

    def batches(self, order: Ids, size: int, generator: np.random.Generator) -> Iterator[Ids]:
        """Texts of like length together, as padding costs time; the batches in random order."""
        lengths = np.array([len(self.rows[index]) for index in order])
        parts = _cut(order[np.argsort(lengths, kind="stable")], size)
        for index in generator.permutation(len(parts)):
            yield parts[index]


def _network(vocab_size: int, labels: int, options: ClassifierOptions) -> BagNetwork | SequenceNetwork:
    kind = BagNetwork if options.kind == "mlp" else SequenceNetwork
    return kind(vocab_size, labels, options)


def _ids(text: str, vocabulary: Vocabulary, options: ClassifierOptions) -> Ids:
    """The ids of a text's first words; an empty text is one unknown word."""
    return vocabulary.ids(words(text)[: options.max_words] or [""])


def _cut(order: Ids, size: int) -> list[Ids]:
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def _padded(rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), _PAD)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = torch.from_numpy(row)
    return ids, lengths
