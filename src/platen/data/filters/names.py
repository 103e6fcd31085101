"""Finds names of people with a model that labels tokens, such as a BERT that was trained on CoNLL 2003."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from platen.core.errors import BundleError
from platen.scan.screen import Match

if TYPE_CHECKING:
    from platen.models.hub_models import Labeller

PERSON = ("PER", "PERSON")
_LABEL = re.compile("(?:([BIESLU])[-_])?(.+)")
_NAME = re.compile(r"\w(?:.*\w)?", re.DOTALL)
"""A name without punctuation that a tokenizer left at its words."""


class Names:
    """A scanner; what it finds is a `name`. The model is opened once in each process."""

    name = "names"

    def __init__(self, folder: Path) -> None:
        """Raises BundleError for a folder without a model that labels people, MissingExtraError."""
        self._folder = folder
        labels = _model(folder).labels
        if not any(map(_person, labels)):
            raise BundleError(
                f"{folder} has no label for people; its labels are {', '.join(labels)}",
                hint=f"Give a model with the label {' or '.join(PERSON)}, such as B-PER and I-PER.",
            )

    def matches(self, text: str, start: int) -> Iterator[Match]:
        if start < len(text):
            for begin, end in _people(_model(self._folder), text):
                if begin >= start:
                    yield Match("name", begin, end, begin, end)

    def hold(self, text: str, start: int) -> int:
        """Whole texts only: nothing is held back."""
        return len(text)


@cache
def _model(folder: Path) -> Labeller:
    from platen.models.hub_models import Labeller

    return Labeller(folder, "TokenClassification")


def _person(label: str) -> str | None:
    """How a label says that a token is of a person: B, I and so on, I without a prefix; None for others."""
    found = _LABEL.fullmatch(label.upper())
    return (found[1] or "I") if found and found[2] in PERSON else None


def _people(model: Labeller, text: str) -> Iterator[tuple[int, int]]:
    """Where names stand: words in a row that are labelled as one person."""
    spans: list[tuple[int, int]] = []
    inside = False
    for begin, end, tag in _words(model, text):
        if inside and tag is not None and tag not in "BSU":
            spans[-1] = (spans[-1][0], end)
        elif tag is not None:
            spans.append((begin, end))
        inside = tag is not None
    for begin, end in spans:
        if (found := _NAME.search(text, begin, end)) is not None:
            yield found.span()


def _words(model: Labeller, text: str) -> Iterator[tuple[int, int, str | None]]:
    """Every word's place and whether it is of a person, which its first token decides.

    Where windows overlap, each has its half: a token knows more of what is around it there.
    """
    tags = [_person(label) for label in model.labels]
    words: dict[int, tuple[int, str | None]] = {}
    windows = model.windows(text)
    for number, (window, output) in enumerate(zip(windows, model.outputs(windows), strict=True)):
        best = output.argmax(dim=-1).tolist()
        word, begin = None, 0
        seen = model.overlap // 2 if number else 0
        for place, (own, (first, last)) in enumerate(zip(window.word_ids, window.offsets, strict=True)):
            if own is None:
                continue
            known, word = word == own, own
            if not known:
                begin = first
            if known and begin in words:
                words[begin] = (last, words[begin][1])
            elif not known and place >= seen:
                words[begin] = (last, tags[best[place]])
    return ((begin, end, tag) for begin, (end, tag) in sorted(words.items()))
