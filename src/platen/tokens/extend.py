"""Give an existing tokenizer words of a domain and special tokens of their own; all other ids stay.

A word becomes a token in the algorithm's own way, not a foreign body beside it: BPE gets merges at the end of
its list, Unigram a piece that is just likelier than its parts, WordPiece a word. So the tokenizer can still
be converted, and the word is found where the algorithm finds words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as Backend

from platen.core.errors import DataError
from platen.tokens.pieces import BLANK
from platen.tokens.specials import markers_of
from platen.tokens.tokenizer import BYTE_OF_LETTER, Tokenizer, added_token

_LETTER_OF_BYTE = {byte: letter for letter, byte in BYTE_OF_LETTER.items()}


@dataclass(frozen=True)
class Extension:
    """The new tokenizer. `origins` has for each new id the ids that its text had before, none for a special
    token; `refused` says of words that are no new tokens why."""

    tokenizer: Tokenizer
    origins: Mapping[int, tuple[int, ...]]
    refused: Mapping[str, str]


def extend_tokenizer(
    tokenizer: Tokenizer,
    *,
    words: Iterable[str] = (),
    specials: Iterable[str] = (),
    chat_template: str | None = None,
) -> Extension:
    """Add `words`, `specials` and the markers of `chat_template`, which becomes the tokenizer's.

    With blanks in its vocabulary a word is added with a blank before it too, as it stands in a text. Raises
    DataError when nothing is new.
    """
    raw = json.loads(tokenizer.raw)
    adder = {"BPE": _Bpe, "Unigram": _Unigram, "WordPiece": _WordPiece}.get(raw["model"]["type"])
    if adder is None:
        raise DataError(
            f"a {raw['model']['type']} tokenizer can't be extended", hint="Train a new one instead."
        )
    vocabulary = adder(raw, tokenizer)
    refused: dict[str, str] = {}
    for word in dict.fromkeys(words):
        if reason := vocabulary.add_word(word):
            refused[word] = reason
    known = {token.content for token in tokenizer.added_tokens}
    for mark in dict.fromkeys([*specials, *markers_of(chat_template or "")]):
        if mark in known:
            refused[mark] = "is a token already"
            continue
        raw["added_tokens"].append(added_token(vocabulary.add(mark, (), special=True), mark, True))
    if not vocabulary.origins and chat_template is None:
        reasons = "; ".join(f"{word!r} {reason}" for word, reason in list(refused.items())[:3])
        raise DataError(f"no token is new: {reasons or 'none was asked for'}", hint="Give other words.")
    config = tokenizer.config | ({} if chat_template is None else {"chat_template": chat_template})
    text = json.dumps(raw, ensure_ascii=False, indent=2) + "\n"
    return Extension(Tokenizer(text.encode(), config), vocabulary.origins, refused)


class _Vocabulary:
    """The entries of a model while some are added. `origins` as in Extension."""

    byte_level = True

    def __init__(self, raw: dict[str, Any], tokenizer: Tokenizer) -> None:
        self.model, self.origins = raw["model"], dict[int, tuple[int, ...]]()
        self._next = tokenizer.vocab_size
        self._parts = Backend.from_buffer(tokenizer.raw)
        cut: dict[str, Any] = {
            "pre_tokenizer": None,
            "normalizer": None,
            "post_processor": None,
            "added_tokens": [],
        }
        self._bare = Backend.from_str(json.dumps(raw | cut))

    def add(self, text: str, origin: Sequence[int], *, special: bool = False) -> int:
        """A new entry; its id."""
        id, self._next = self._next, self._next + 1
        self.model["vocab"][text] = id
        self.origins[id] = tuple(origin)
        return id

    def add_word(self, word: str) -> str | None:
        """Add a word in all its forms; the reason when none of them can be a new token."""
        if not word or word != "".join(word.split()):
            return "has a blank in it, or nothing"
        reasons = [self.add_form(form) for form in self.forms(word)]
        return reasons[0] if all(reasons) else None

    def forms(self, word: str) -> Iterator[str]:
        """The letters of the vocabulary for the word inside of a text and after a blank."""
        for text in (word, f" {word}"):
            if self._parts.pre_tokenizer is None:
                yield text.replace(" ", BLANK)
            else:
                yield "".join(_LETTER_OF_BYTE[byte] for byte in text.encode("utf-8"))

    def add_form(self, form: str) -> str | None:
        raise NotImplementedError

    def cut(self, form: str) -> str | None:
        """The reason when the rules that cut texts would cut this one; None when they leave it whole."""
        if self._parts.pre_tokenizer is None:
            return None
        plain = bytes(BYTE_OF_LETTER[letter] for letter in form).decode() if self.byte_level else form
        parts = [part for part, _ in self._parts.pre_tokenizer.pre_tokenize_str(plain)]
        return None if len(parts) == 1 else f"is cut into {len(parts)} parts before the vocabulary is asked"


class _Bpe(_Vocabulary):
    def __init__(self, raw: dict[str, Any], tokenizer: Tokenizer) -> None:
        super().__init__(raw, tokenizer)
        self._new: dict[tuple[str, str], int] = {}
        merges = self.model["merges"]
        self._as_text = bool(merges) and isinstance(merges[0], str)

    def add_form(self, form: str) -> str | None:
        if reason := self.cut(form):
            return reason
        before = self._bare.encode(form, add_special_tokens=False)
        parts: list[tuple[str, tuple[int, ...]]] = [
            (text, (id,)) for text, id in zip(before.tokens, before.ids, strict=True)
        ]
        if "".join(text for text, _ in parts) != form:
            return "has characters that the vocabulary doesn't have"
        parts = self._joined(parts)
        if len(parts) == 1:
            return "is a token already"
        while len(parts) > 1:
            (left, left_ids), (right, right_ids), *rest = parts
            merge = (left, right)
            self._new[merge] = len(self._new)
            self.model["merges"].append(" ".join(merge) if self._as_text else list(merge))
            self.add(left + right, left_ids + right_ids)
            parts = [(left + right, left_ids + right_ids), *rest]
        return None

    def _joined(self, parts: list[tuple[str, tuple[int, ...]]]) -> list[tuple[str, tuple[int, ...]]]:
        """Old tokens joined by the merges that are new, the earliest first."""
        while True:
            ranks = [self._new.get((parts[i][0], parts[i + 1][0])) for i in range(len(parts) - 1)]
            found = [rank for rank in ranks if rank is not None]
            if not found:
                return parts
            at = ranks.index(min(found))
            (left, left_ids), (right, right_ids) = parts[at : at + 2]
            parts = [*parts[:at], (left + right, left_ids + right_ids), *parts[at + 2 :]]


class _Unigram(_Vocabulary):
    def __init__(self, raw: dict[str, Any], tokenizer: Tokenizer) -> None:
        super().__init__(raw, tokenizer)
        entries = self.model["vocab"]
        self._scores = [score for _, score in entries]
        self._never = min(self._scores) - 20.0
        beyond = {token.id: token.content for token in tokenizer.added_tokens}
        entries += [[beyond[id], self._never] for id in range(len(entries), self._next)]

    def add(self, text: str, origin: Sequence[int], *, special: bool = False) -> int:
        id, self._next = self._next, self._next + 1
        scores = [self._scores[part] for part in origin]
        self.model["vocab"].append([text, self._never if special else sum(scores) + 1e-3 * len(scores)])
        self.origins[id] = tuple(origin)
        return id

    def add_form(self, form: str) -> str | None:
        if reason := self.cut(form):
            return reason
        before = self._bare.encode(form, add_special_tokens=False)
        if "".join(before.tokens) != form:
            return "has characters that the vocabulary doesn't have"
        if len(before.ids) == 1:
            return "is a token already"
        self.add(form, before.ids)
        return None


class _WordPiece(_Vocabulary):
    byte_level = False

    def forms(self, word: str) -> Iterator[str]:
        yield word if self._parts.normalizer is None else self._parts.normalizer.normalize_str(word)

    def add_form(self, form: str) -> str | None:
        if reason := self.cut(form):
            return reason
        if form in self.model["vocab"]:
            return "is a token already"
        if len(form) > self.model["max_input_chars_per_word"]:
            return f"is longer than {self.model['max_input_chars_per_word']} characters"
        self.add(form, self._bare.encode(form, add_special_tokens=False).ids)
        return None
