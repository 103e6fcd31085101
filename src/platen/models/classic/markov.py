"""An order-k Markov chain: which word followed which k words, and a walk through that.

It has no hidden state and no smoothing: it can only say what the text said. The same chain as probabilities
is `ngram.MaximumLikelihood`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from platen.core.errors import DataError

State = tuple[str, ...]


@dataclass(frozen=True)
class MarkovChain:
    """`successors` lists the words after each state, each as often as it came; `first` begins the text."""

    order: int
    successors: Mapping[State, Sequence[str]]
    first: State

    @classmethod
    def fit(cls, tokens: Sequence[str], *, order: int = 1) -> MarkovChain:
        """Raises ValueError for an order below 1, DataError for a text of not more than `order` words."""
        if order < 1:
            raise ValueError("a chain looks back one word or more")
        if len(tokens) <= order:
            raise DataError(f"a chain of order {order} needs more than {order} words", hint="Give more text.")
        successors: dict[State, list[str]] = defaultdict(list)
        for at in range(order, len(tokens)):
            successors[tuple(tokens[at - order : at])].append(tokens[at])
        return cls(order, dict(successors), tuple(tokens[:order]))

    def walk(self, length: int = 50, *, start: Sequence[str] | None = None, seed: int = 0) -> list[str]:
        """Up to `length` words that begin with `start`, by default the text's own; a dead end ends them.

        The same seed gives the same walk. Raises ValueError when `start` has fewer words than the order.
        """
        walked = list(self.first if start is None else start)
        if len(walked) < self.order:
            raise ValueError(f"a start needs {self.order} words")
        chance = random.Random(seed)
        while len(walked) < length and (following := self.successors.get(tuple(walked[-self.order :]))):
            walked.append(chance.choice(following))
        return walked
