"""The networks of the ladder as language models, trained and scored alike.

Each takes ids (B, T) and gives logits (B, T, V) of the token after each. They are in the order of what they
know of the text before: a mean of some vectors, those vectors in order, a state, all tokens at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from platen.core.progress import Progress
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.models.classic.mlp import MLP
from platen.models.classic.recurrent import Cell, Recurrent
from platen.models.classic.transformer import sine_positions

CONTEXT = 4
"""Tokens that the two networks with a fixed window read."""
_WARM_UP = 20


@dataclass(frozen=True)
class NetworkOptions:
    """`length` tokens a row, `batch` rows a step, `steps` or `seconds`, whichever ends first."""

    size: int = 128
    length: int = 64
    batch: int = 16
    steps: int = 300
    seconds: float = 60.0
    learning_rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """What a training did: `cut` when time ended it before its steps were done."""

    steps: int
    seconds: float
    tokens: int
    cut: bool


class WindowNetwork(nn.Module):
    """Reads the last `CONTEXT` tokens: their mean, as CBoW does but looking back only, or one after another
    through an MLP (Bengio et al., 2003)."""

    def __init__(self, vocab_size: int, size: int, kind: Literal["cbow", "mlp"]) -> None:
        super().__init__()
        self.kind = kind
        self.embedding = nn.Embedding(vocab_size, size)
        self.head = (
            nn.Linear(size, vocab_size)
            if kind == "cbow"
            else MLP(CONTEXT * size, 2 * size, vocab_size, activation="tanh")
        )

    def forward(self, ids: Tensor) -> Tensor:
        vectors = F.pad(self.embedding(ids), (0, 0, CONTEXT - 1, 0))
        windows = vectors.unfold(1, CONTEXT, 1)  # (B, T, C, CONTEXT)
        return self.head(windows.mean(-1) if self.kind == "cbow" else windows.flatten(2))  # type: ignore[no-any-return]


class RecurrentNetwork(nn.Module):
    """One recurrent layer that looks back."""

    def __init__(self, vocab_size: int, size: int, cell: Cell) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, size)
        self.recurrent = Recurrent(cell, size, 2 * size)
        self.head = nn.Linear(2 * size, vocab_size)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(ids))[0])  # type: ignore[no-any-return]


class TransformerNetwork(nn.Module):
    """The decoder of 2017 without an encoder: sine positions, norms after the residual sums."""

    def __init__(self, vocab_size: int, size: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, size)
        nn.init.normal_(self.embedding.weight, std=size**-0.5)
        layer = nn.TransformerEncoderLayer(size, 4, 4 * size, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(size, vocab_size)
        positions = torch.from_numpy(sine_positions(length, size)).float()
        self.register_buffer("positions", positions, persistent=False)
        self.size = size

    def forward(self, ids: Tensor) -> Tensor:
        steps = ids.shape[1]
        x = self.embedding(ids) * math.sqrt(self.size) + self.get_buffer("positions")[:steps]
        mask = nn.Transformer.generate_square_subsequent_mask(steps)
        return self.head(self.layers(x, mask=mask, is_causal=True))  # type: ignore[no-any-return]


def _llama(vocab_size: int, options: NetworkOptions) -> nn.Module:
    config = DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=options.size,
        intermediate_size=options.size * 8 // 3,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=options.size // 4,
        max_position_embeddings=options.length,
        tie_word_embeddings=True,
    )
    return Decoder(config)


NETWORKS: dict[str, Callable[[int, NetworkOptions], nn.Module]] = {
    "CBoW": lambda vocab, options: WindowNetwork(vocab, options.size, "cbow"),
    "MLP": lambda vocab, options: WindowNetwork(vocab, options.size, "mlp"),
    "RNN": lambda vocab, options: RecurrentNetwork(vocab, options.size, "rnn"),
    "LSTM": lambda vocab, options: RecurrentNetwork(vocab, options.size, "lstm"),
    "Transformer": lambda vocab, options: TransformerNetwork(vocab, options.size, options.length),
    "Llama": _llama,
}


def train_network(
    name: str, ids: NDArray[np.int64], vocab_size: int, options: NetworkOptions, progress: Progress
) -> tuple[nn.Module, Training]:
    """Build the network and train it on random rows; the same seed, the same weights, unless time cuts."""
    torch.manual_seed(options.seed)
    network = NETWORKS[name](vocab_size, options).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options.steps))
    generator = np.random.default_rng(options.seed)
    length = min(options.length, len(ids) - 1)
    started = time.perf_counter()
    step = 0
    with progress.task(name, total=options.steps, unit="steps") as task:
        while step < options.steps and time.perf_counter() - started < options.seconds:
            begins = generator.integers(0, len(ids) - length, size=options.batch)
            rows = torch.from_numpy(ids[begins[:, None] + np.arange(length + 1)])
            loss = F.cross_entropy(network(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            task.update(step, note=f"loss {loss.item():.3f}")
    seconds = time.perf_counter() - started
    tokens = step * options.batch * length
    return network.eval(), Training(step, seconds, tokens, step < options.steps)


def _rate(step: int, steps: int) -> float:
    """Up over the first steps, then a cosine down to a tenth."""
    return min(1.0, (step + 1) / _WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * step / max(1, steps)))


def network_log2_scores(network: nn.Module, ids: NDArray[np.int64], length: int) -> NDArray[np.float64]:
    """log2 of the probability of each id but the first, read in windows of `length` that overlap by half."""
    half = length // 2
    scores = np.empty(len(ids) - 1)
    begins = list(range(0, max(1, len(ids) - 1 - half), half))
    whole = [begin for begin in begins if begin + length < len(ids)]
    batches = [whole[i : i + 32] for i in range(0, len(whole), 32)] + [
        [b] for b in begins if b not in set(whole)
    ]
    with torch.inference_mode():
        for batch in batches:
            rows = torch.from_numpy(np.stack([ids[begin : begin + length + 1] for begin in batch]))
            logs = network(rows[:, :-1]).float().log_softmax(dim=-1)
            picked = logs.gather(-1, rows[:, 1:, None])[..., 0].double().numpy() / math.log(2)
            for begin, row in zip(batch, picked, strict=True):
                known = 0 if begin == 0 else half
                scores[begin + known : begin + len(row)] = row[known:]
    return scores
