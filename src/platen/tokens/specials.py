"""The special tokens that Platen's own tokenizers have, and how a chat template's markers become such."""

from __future__ import annotations

import re

BOS, EOS, PAD, UNK = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>", "<|unknown|>"
FILL_IN_THE_MIDDLE = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
"""Marks of the parts of a text with a gap, in the notation that the servers' `suffix` understands."""
CHAT = ("<|im_start|>", "<|im_end|>")
"""The marks of ChatML, which most chat templates write."""

_MARKER = re.compile(r"<\|[A-Za-z0-9_]+\|>")


def markers_of(template: str) -> list[str]:
    """What a chat template writes in the form `<|name|>`, sorted, each once."""
    return sorted(set(_MARKER.findall(template)))
