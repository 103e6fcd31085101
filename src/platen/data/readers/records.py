"""From a parsed record, with its text under one key, to a document whose other values are its metadata."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from platen.data.document import Broken, Document
from platen.data.sourcefile import SourceFile


def parse_json(text: str) -> Any:
    """A JSON value; NaN and Infinity, which are none, become null. Raises ValueError."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def document_of(record: object, file: SourceFile, id: str, place: str) -> Document | Broken:
    """The document in a record; broken where the record has no text."""
    key = file.source.text
    text = record.get(key) if isinstance(record, Mapping) else None
    if not isinstance(record, Mapping) or not isinstance(text, str):
        known = ", ".join(list(map(str, record))[:8]) if isinstance(record, Mapping) else ""
        return Broken(
            place,
            "no-text",
            f"{place}: no text under the key {key!r}" + (f"; there are {known}" if known else ""),
            'Write lines such as {"text": "One document."}, or give the source its key or column (text: …).',
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        return Broken(
            place,
            "surrogate",
            f"{place}: half of a surrogate pair, which is no character",
            "Write the JSON again with ensure_ascii=False, or repair the text.",
        )
    metadata = {str(name): plain(value) for name, value in record.items() if name != key}
    return Document(id, text, file.name, metadata)


def plain(value: object) -> Any:
    """A value of a table or record as JSON has it: dates in ISO 8601, decimals as text, bytes in base 64."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    return str(value)
