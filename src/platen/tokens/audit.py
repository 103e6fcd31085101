"""What a tokenizer costs by language, what it doesn't know, and which characters come back from it.

Fertility is the number of tokens a word becomes (Rust et al. 2021); tokens per byte compare languages
that have no blanks between words. The round trip goes over every code point of Unicode, plane by plane.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from platen.core.errors import DataError
from platen.tokens.languages import SENTENCES, TextSize, text_size
from platen.tokens.tokenizer import Tokenizer

PLOT_SUFFIXES = (".png", ".svg", ".pdf", ".jpg", ".webp")
_BLOCK = 128


@dataclass(frozen=True)
class LanguageCost:
    """Of one tokenizer in one language. `unknown` tokens stand for what is not in the vocabulary."""

    tokenizer: str
    language: str
    size: TextSize
    tokens: int
    unknown: int

    @property
    def tokens_per_word(self) -> float | None:
        return self.tokens / self.size.words if self.size.words else None

    @property
    def tokens_per_byte(self) -> float:
        return self.tokens / self.size.bytes if self.size.bytes else 0.0

    @property
    def unknown_rate(self) -> float:
        return self.unknown / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class PlaneTrip:
    """How many code points of a plane of Unicode come back; `first_lost` is the first that doesn't."""

    tokenizer: str
    plane: int
    points: int
    returned: int
    first_lost: str | None


@dataclass(frozen=True)
class Audit:
    """Costs by language and tokenizer, and round trips by plane and tokenizer."""

    vocabularies: Mapping[str, int]
    costs: tuple[LanguageCost, ...]
    planes: tuple[PlaneTrip, ...]

    def cost(self, tokenizer: str, language: str) -> LanguageCost:
        return next(c for c in self.costs if (c.tokenizer, c.language) == (tokenizer, language))

    def to_json(self) -> dict[str, Any]:
        costs = [
            {
                "tokenizer": cost.tokenizer,
                "language": cost.language,
                **asdict(cost.size),
                "tokens": cost.tokens,
                "tokens_per_word": cost.tokens_per_word,
                "tokens_per_byte": cost.tokens_per_byte,
                "unknown_rate": cost.unknown_rate,
            }
            for cost in self.costs
        ]
        planes = [asdict(trip) for trip in self.planes]
        return {"vocabularies": dict(self.vocabularies), "languages": costs, "round_trip": planes}


def audit(
    tokenizers: Mapping[str, Tokenizer], texts: Mapping[str, str] | None = None, *, planes: bool = True
) -> Audit:
    """Audit named tokenizers on a text a language; by default one sentence in many languages."""
    texts = SENTENCES if texts is None else texts
    return Audit(
        vocabularies={name: tokenizer.vocab_size for name, tokenizer in tokenizers.items()},
        costs=tuple(
            language_cost(tokenizer, name, language, text)
            for name, tokenizer in tokenizers.items()
            for language, text in texts.items()
        ),
        planes=tuple(
            trip for name, tokenizer in tokenizers.items() if planes for trip in round_trip(tokenizer, name)
        ),
    )


def language_cost(tokenizer: Tokenizer, name: str, language: str, text: str) -> LanguageCost:
    """What `text` costs, special tokens in it taken as text."""
    ids = tokenizer.encode(text, special=False)
    unknown = ids.count(tokenizer.unknown_id) if tokenizer.unknown_id is not None else 0
    return LanguageCost(name, language, text_size(text), len(ids), unknown)


def round_trip(tokenizer: Tokenizer, name: str) -> Iterator[PlaneTrip]:
    """For each of Unicode's 17 planes, which code points come back from their ids. Surrogates are none."""
    for plane in range(17):
        points = [chr(code) for code in range(plane << 16, (plane + 1) << 16) if not 0xD800 <= code < 0xE000]
        lost: list[str] = []
        for start in range(0, len(points), 32 * _BLOCK):
            some = points[start : start + 32 * _BLOCK]
            blocks = [some[i : i + _BLOCK] for i in range(0, len(some), _BLOCK)]
            back = _there_and_back(tokenizer, ["".join(block) for block in blocks])
            suspects = [
                point
                for block, text in zip(blocks, back, strict=True)
                if text != "".join(block)
                for point in block
            ]
            alone = _there_and_back(tokenizer, [f"a{point}b" for point in suspects])
            lost += [p for p, text in zip(suspects, alone, strict=True) if text != f"a{p}b"]
        first = f"U+{ord(lost[0]):04X}" if lost else None
        yield PlaneTrip(name, plane, len(points), len(points) - len(lost), first)


def _there_and_back(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    ids = tokenizer.encode_batch(texts, special=False)
    return tokenizer.decode_batch(ids)


def read_language_texts(folder: Path) -> dict[str, str]:
    """A text a language: the `.txt` files of a folder by their names. Raises DataError."""
    try:
        texts = {file.stem: file.read_text("utf-8") for file in sorted(folder.glob("*.txt"))}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder}: {error}", hint="Give UTF-8 files that are yours to read.") from None
    if not texts:
        raise DataError(
            f"{folder} has no .txt files", hint="Give a folder with a file a language: German.txt"
        )
    return texts


def plot_audit(audit: Audit, file: Path) -> None:
    """Tokens per byte by language, a bar a tokenizer; the file ends with one of PLOT_SUFFIXES.

    A text that becomes one unknown token looks cheap; bars with such tokens are hatched, with the share.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    languages = list(dict.fromkeys(cost.language for cost in audit.costs))
    names = list(audit.vocabularies)
    figure = Figure(figsize=(8, 1.5 + 0.28 * len(languages) * max(1, len(names) / 2)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        costs = [audit.cost(name, language) for language in languages]
        bars = axes.barh(
            np.arange(len(languages)) + (number - (len(names) - 1) / 2) * height,
            [cost.tokens_per_byte for cost in costs],
            height,
            color=f"C{number}",
        )
        for bar, cost in zip(bars, costs, strict=True):
            if cost.unknown:
                bar.set(hatch="////", edgecolor=f"C{number}", facecolor="white")
        axes.bar_label(bars, [unknown_share(cost) for cost in costs], padding=3, fontsize=7)
    axes.set_yticks(range(len(languages)), languages)
    axes.invert_yaxis()
    axes.set_xlabel("tokens per byte of UTF-8 (fewer is cheaper)")
    axes.spines[["top", "right"]].set_visible(False)
    keys = [
        Patch(color=f"C{number}", label=f"{name} ({audit.vocabularies[name]:,})")
        for number, name in enumerate(names)
    ]
    if any(cost.unknown for cost in audit.costs):
        label = "not comparable: with unknown tokens"
        keys.append(Patch(hatch="////", edgecolor="grey", facecolor="white", label=label))
    figure.legend(handles=keys, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(file, dpi=130)


def unknown_share(cost: LanguageCost) -> str:
    """`12% unknown`, or nothing where all is known."""
    return f"{cost.unknown_rate:.0%} unknown" if cost.unknown else ""
