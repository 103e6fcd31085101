"""What a load test asks: prompts from a file, or made up with a wanted number of tokens.

Made-up prompts are common words in random order, so two of them share no beginning that a prefix cache could
reuse. How many words make a token differs between tokenizers: the server is asked (see `target.calibrate`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platen.core.errors import DataError

_TEXT = (
    "the of and a to in is you that it he was for on are as with his they at be this have from or one had by "
    "word but not what all were we when your can said there use an each which she do how their if will up "
    "other about out many then them these so some her would make like him into time has look two more write "
    "go see number no way could people my than first water been call who its now find long down day did get "
    "come made may part over new sound take only little work know place year live me back give most very "
    "after thing our just name good sentence man think say great where help through much before line right "
    "too mean old any same tell boy follow came want show also around form three small set put end does"
)
_WORDS = _TEXT.split()


@dataclass(frozen=True)
class Ask:
    """One request: a prompt or a conversation, and the most tokens to generate."""

    prompt: str | Sequence[Mapping[str, Any]]
    max_tokens: int


@dataclass(frozen=True)
class Lengths:
    """Whole numbers from `low` to `high`, each as likely; equal for a fixed length."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """`250` or `100-400`. Raises ValueError."""
        low, _, high = text.partition("-")
        found = cls(int(low), int(high or low))
        if not 1 <= found.low <= found.high:
            raise ValueError(f"{text!r} is not a length such as 250 or 100-400")
        return found

    def draw(self, random_: random.Random) -> int:
        return random_.randint(self.low, self.high)


@dataclass(frozen=True)
class Synthetic:
    """Made-up prompts of `prompt` tokens, each with `output` tokens to write."""

    prompt: Lengths
    output: Lengths
    words_per_token: float = 1.0

    def text(self, tokens: int, random_: random.Random) -> str:
        count = max(1, round(tokens * self.words_per_token))
        return " ".join(random_.choices(_WORDS, k=count))

    def asks(self, seed: int) -> Iterator[Ask]:
        """Without end; the same seed gives the same."""
        random_ = random.Random(seed)
        while True:
            yield Ask(self.text(self.prompt.draw(random_), random_), self.output.draw(random_))


@dataclass(frozen=True)
class Listed:
    """Prompts of a file, over and over in its order."""

    entries: tuple[Ask, ...]

    def asks(self, seed: int) -> Iterator[Ask]:
        """Without end, from the index that `seed` gives."""
        start = seed % len(self.entries)
        while True:
            yield from self.entries[start:]
            start = 0


Prompts = Synthetic | Listed


def read_prompts(file: Path, max_tokens: int) -> Listed:
    """Prompts from a JSON-lines file (`.jsonl`), else one from each line of text that is not blank.

    A JSON line is a string, or an object with `prompt`, `text` or `messages`, and `max_tokens` if it is to
    differ from the given. Raises DataError with the line.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} can't be read: {error}", hint="Give a UTF-8 text or JSONL file.") from None
    is_json = file.suffix in (".jsonl", ".ndjson")
    entries = [
        _from_json(line, f"{file}:{number}", max_tokens) if is_json else Ask(line, max_tokens)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not entries:
        raise DataError(f"{file} has no prompts", hint="One a line.")
    return Listed(tuple(entries))


def _from_json(line: str, where: str, max_tokens: int) -> Ask:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    if isinstance(entry, str):
        return Ask(entry, max_tokens)
    if isinstance(entry, dict):
        limit = entry.get("max_tokens", max_tokens)
        for key in ("prompt", "text"):
            if isinstance(entry.get(key), str) and isinstance(limit, int) and limit > 0:
                return Ask(entry[key], limit)
        messages = entry.get("messages")
        if isinstance(messages, list) and messages and isinstance(limit, int) and limit > 0:
            return Ask(messages, limit)
    raise DataError(f"{where}: no prompt", hint='A line is "text", {"prompt": …} or {"messages": […]}.')
