"""What follows in a corpus: the most frequent token after each context of a few tokens, for drafts.

A context of n tokens is the number that they are the digits of, in base V, the size of the vocabulary. An
ascending array of such numbers beside one of tokens is all there is for a length: 12 bytes a context, mapped
into memory and touched where they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import DataError
from platen.core.files import replaced_folder

ABOUT_FILE = "continuations.json"


@dataclass(frozen=True)
class About:
    """What was counted: contexts of 2 to `order` - 1 tokens of the tokenizer with that sha256."""

    order: int
    vocab_size: int
    tokenizer_sha256: str
    schema_version: int = 1


@dataclass(frozen=True)
class Level:
    """Contexts of one length, ascending, and what follows each: equally long arrays."""

    contexts: NDArray[np.uint64]
    tokens: NDArray[np.uint32]


class Continuations:
    """The likeliest next token after each context that has one; `levels` are of length 2, 3 and so on.

    Safe to share between threads.
    """

    def __init__(self, about: About, levels: Sequence[Level]) -> None:
        self.about = about
        self._longest_first = [(2 + index, level) for index, level in enumerate(levels)][::-1]

    def __len__(self) -> int:
        """Contexts of all lengths."""
        return sum(len(level.contexts) for _, level in self._longest_first)

    def bytes(self) -> int:
        return sum(level.contexts.nbytes + level.tokens.nbytes for _, level in self._longest_first)

    def likeliest(self, context: Sequence[int]) -> int | None:
        """What follows the longest end of `context` that is known; None when not even two tokens are."""
        base = self.about.vocab_size
        for length, level in self._longest_first:
            ids = context[-length:]
            if len(ids) < length or max(ids) >= base:
                continue
            number = 0
            for token_id in ids:
                number = number * base + token_id
            at = level.contexts.searchsorted(np.uint64(number))
            if at < len(level.contexts) and level.contexts[at] == number:
                return int(level.tokens[at])
        return None

    def after(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """Up to `most` tokens, each the likeliest after those before it."""
        text = list(tokens[1 - self.about.order :])
        known = len(text)
        while len(text) < known + most and (token_id := self.likeliest(text)) is not None:
            text.append(token_id)
        return tuple(text[known:])

    def save(self, folder: Path) -> None:
        """Write it as a folder; one that is there is replaced once the new one is complete."""
        with replaced_folder(folder, ABOUT_FILE) as new:
            for length, level in self._longest_first:
                np.save(new / f"contexts.{length}.npy", level.contexts, allow_pickle=False)
                np.save(new / f"tokens.{length}.npy", level.tokens, allow_pickle=False)
            (new / ABOUT_FILE).write_text(json.dumps(asdict(self.about), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> Continuations:
        """Map what `save` wrote. Raises DataError when it is missing or damaged."""
        path = Path(folder)
        try:
            raw = json.loads((path / ABOUT_FILE).read_text("utf-8"))
            about = About(**{field.name: raw[field.name] for field in fields(About)})
            levels = [_mapped(path, length, about.vocab_size) for length in range(2, about.order)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} holds no counts of how texts go on that can be opened: {error}",
                hint="Make them with `platen baselines draft TOKENS --out FOLDER`.",
            ) from None
        return cls(about, levels)


def _mapped(folder: Path, length: int, vocab_size: int) -> Level:
    contexts, tokens = (
        # A plain view of the map: look-ups in numpy's own class for it take three times as long.
        np.asarray(np.load(folder / f"{name}.{length}.npy", mmap_mode="r", allow_pickle=False))
        for name in ("contexts", "tokens")
    )
    if contexts.dtype != np.uint64 or tokens.dtype != np.uint32 or contexts.shape != tokens.shape:
        raise ValueError(f"the arrays of length {length} do not belong together")
    if len(tokens) and int(tokens.max()) >= vocab_size:
        raise ValueError(f"the arrays of length {length} have tokens that the vocabulary lacks")
    return Level(contexts, tokens)
