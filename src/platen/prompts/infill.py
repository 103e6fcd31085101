"""Fill in the middle: what stands between a text and what follows it (Bavarian et al. 2022).

Models that were trained for it mark the parts with special tokens of their own; which, their tokenizer tells.
"""

from __future__ import annotations

from dataclasses import dataclass

from platen.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class InfillFormat:
    """The marks of one family: before the prefix, before the suffix and, if there is one, before the answer.

    With `suffix_first` the suffix stands before the prefix, and the answer follows the prefix directly.
    `ends` are further tokens that end an answer, where the tokenizer has them.
    """

    prefix: str
    suffix: str
    middle: str | None
    ends: tuple[str, ...] = ()
    suffix_first: bool = False


FORMATS = (
    # Qwen2.5-Coder, CodeGemma
    InfillFormat(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ("<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<|file_separator|>"),
    ),
    # StarCoder, Granite
    InfillFormat("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<fim_pad>", "<file_sep>", "<filename>")),
    # SantaCoder
    InfillFormat("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ("<fim-pad>",)),
    # DeepSeek-Coder
    InfillFormat("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    # CodeLlama
    InfillFormat("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),
    # Codestral
    InfillFormat("[PREFIX]", "[SUFFIX]", None, suffix_first=True),
)


def infill_format(tokenizer: Tokenizer) -> InfillFormat | None:
    """The family whose marks this tokenizer has; None when the model can't fill in the middle."""
    for found in FORMATS:
        marks = [found.prefix, found.suffix, *([] if found.middle is None else [found.middle])]
        if all(tokenizer.is_added(mark) for mark in marks):
            return found
    return None


def infill_prompt(tokenizer: Tokenizer, format: InfillFormat, prefix: str, suffix: str) -> list[int]:
    """Ids after which the model writes what stands between `prefix` and `suffix`."""

    def marked(mark: str, text: list[int]) -> list[int]:
        return [_id(tokenizer, mark), *text]

    before = marked(format.prefix, tokenizer.encode(prefix, special=False))
    after = marked(format.suffix, tokenizer.encode_inside(suffix))
    middle = [] if format.middle is None else [_id(tokenizer, format.middle)]
    return [*tokenizer.prefix_ids, *(after + before if format.suffix_first else before + after), *middle]


def infill_ends(tokenizer: Tokenizer, format: InfillFormat) -> tuple[int, ...]:
    """Tokens that end such an answer: a model that is done often begins the next example."""
    names = (format.prefix, format.suffix, format.middle, *format.ends)
    return tuple(_id(tokenizer, name) for name in names if name is not None and tokenizer.is_added(name))


def _id(tokenizer: Tokenizer, name: str) -> int:
    found = tokenizer.token_to_id(name)
    assert found is not None
    return found
