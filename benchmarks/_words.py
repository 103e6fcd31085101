"""A tokenizer for datatrove's filters that only parts at blanks."""

from __future__ import annotations

from datatrove.utils.word_tokenizers import WordTokenizer


class Blanks(WordTokenizer):  # type: ignore[misc]
    """Words are what blanks part; a text is one sentence."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]
