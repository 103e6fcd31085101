"""The memory that a key/value cache may take: as the project file says, or a share of what is free."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from platen.core.errors import BundleError, ConfigError

KvMemory = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(MB|GB|%)$")]
"""An amount such as 4GB or 512MB (powers of ten), or a share of the memory that is free, as 25%."""
DEFAULT: KvMemory = "25%"
_UNITS = {"MB": 1e6, "GB": 1e9}


def budget_bytes(memory: KvMemory) -> int:
    """Bytes of an amount, or of a share of the memory that is free now. Raises ConfigError for neither."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(MB|GB|%)", memory)
    if match is None:
        raise ConfigError(
            f"{memory!r} is no amount of memory for keys and values", hint="Write it as 4GB, 512MB or 25%."
        )
    if match[2] != "%":
        return int(float(match[1]) * _UNITS[match[2]])
    import psutil

    return int(psutil.virtual_memory().available * min(float(match[1]), 100.0) / 100)


def check_smallest(model: str, budget: int, needed: int, too_small: bool) -> None:
    """Raise BundleError when the budget does not hold the `needed` bytes of the shortest useful sequence."""
    if too_small:
        raise BundleError(
            f"{model}: the key/value cache may take {budget / 1e6:,.1f} MB, and one short sequence takes "
            f"{needed / 1e6:,.1f} MB",
            hint="Allow it more: serve.kv_memory in platen.yaml, or platen serve --kv-memory 2GB.",
        )
