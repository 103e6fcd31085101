"""gigatoken's encoder of byte-level BPE, with the ids of the tokenizers library and in bounded memory."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import MissingExtraError, first_line
from platen.tokens.pieces import ConversionError
from platen.tokens.tokenizer import Tokenizer

Ids = NDArray[np.uint32]

# Letters and digits new in Unicode 17, which gigatoken knows and the regular expressions of tokenizers don't.
# fmt: off
_NEW_LETTERS = (
    (0x88F, 0x88F), (0xC5C, 0xC5C), (0xCDC, 0xCDC), (0xA7CE, 0xA7CF), (0xA7D2, 0xA7D2), (0xA7D4, 0xA7D4),
    (0xA7F1, 0xA7F1), (0x10940, 0x10959), (0x10EC5, 0x10EC7), (0x11DB0, 0x11DDB), (0x11DE0, 0x11DE9),
    (0x16EA0, 0x16EB8), (0x16EBB, 0x16ED3), (0x16FF2, 0x16FF6), (0x187F8, 0x187FF), (0x18D09, 0x18D1E),
    (0x18D80, 0x18DF2), (0x1E6C0, 0x1E6DE), (0x1E6E0, 0x1E6E2), (0x1E6E4, 0x1E6E5), (0x1E6E7, 0x1E6ED),
    (0x1E6F0, 0x1E6F4), (0x1E6FE, 0x1E6FF), (0x2B73A, 0x2B73F), (0x2CEA2, 0x2CEAD), (0x323B0, 0x33479),
)
# fmt: on
_ANY_NEW_LETTER = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _NEW_LETTERS) + "]")
_NEW_STARTS = sorted(
    {chr(code).encode()[:2] for first, last in _NEW_LETTERS for code in range(first, last + 1)}
)
"""What they begin with in UTF-8: found ten times as fast as they are."""
_NEW_LEADS = sorted({start[:1] for start in _NEW_STARTS})
# gigatoken remembers every word that it met, up to seven times the text's size; a new encoder takes 50 ms.
_BYTES_AN_ENCODER = 64_000_000


class FastEncoder:
    """Encodes plain text: what reads like an added token is text as well. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises MissingExtraError, and ConversionError for a way to cut texts that gigatoken lacks."""
        self._raw = json.dumps(json.loads(tokenizer.raw) | {"added_tokens": [], "post_processor": None})
        self._encoder = self._load()
        self._seen = 0  # bytes it has encoded; threads may lose some of the count, which does no harm

    def encode(self, text: str) -> Ids | None:
        """Ids of a text; None for one that only the tokenizer's own library encodes as it should be.

        Raises UnicodeEncodeError for half a surrogate pair.
        """
        data = text.encode("utf-8")
        if not text.isascii() and _has_new_letters(text, data):
            return None
        self._seen += len(data)
        if self._seen > _BYTES_AN_ENCODER:
            self._seen, self._encoder = len(data), self._load()
        found: Ids = self._encoder.encode(data)
        return found

    def _load(self) -> Any:
        try:
            from gigatoken.gigatoken_rs import load_hf_json
        except ImportError:
            raise MissingExtraError("data", "gigatoken's encoder") from None
        try:
            return load_hf_json(self._raw)
        except (ValueError, RuntimeError) as error:  # it knows the patterns of well-known models alone
            raise ConversionError(
                f"gigatoken can't encode as this tokenizer does: {first_line(error)}",
                hint="Use the tokenizers library.",
            ) from None


def _has_new_letters(text: str, data: bytes) -> bool:
    """Whether a text, whose UTF-8 is `data`, has letters that only Unicode 17 knows as such."""
    if not any(lead in data for lead in _NEW_LEADS) or not any(start in data for start in _NEW_STARTS):
        return False
    return _ANY_NEW_LETTER.search(text) is not None
