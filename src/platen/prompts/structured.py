"""What a response must match: a JSON schema, a regular expression or a grammar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Grammar:
    """What a text must match: a JSON schema, a regular expression, or a grammar in Lark's notation."""

    kind: Literal["json_schema", "regex", "lark"]
    text: str
