"""Files that list words or patterns, one a line."""

from __future__ import annotations

from pathlib import Path

from platen.core.errors import ConfigError
from platen.scan.words import LONGEST_ENTRY


def read_lines(path: Path, what: str) -> list[str]:
    """A file's lines, less empty ones and those that begin with `#`.

    Raises ConfigError, which calls the file `what`, when it can't be read or is no UTF-8.
    """
    try:
        # Some editors begin a file with a mark, which would hide a `#` behind it.
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise ConfigError(
            f"the {what} {path} can't be read: {error.strerror}", hint="Name it relative to platen.yaml."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the {what} {path} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset "
            f"{error.start}",
            hint="Save it as UTF-8, or convert it, for example with iconv.",
        ) from None
    return [line for line in lines if line and not line.startswith("#")]


def read_words(path: Path, what: str) -> list[str]:
    """The same for words. Raises ConfigError also where there are none, or one is too long to be found."""
    words = read_lines(path, what)
    if not words:
        raise ConfigError(f"the {what} {path} has no word in it", hint="Give one word or phrase a line.")
    if too_long := [word for word in words if len(word) > LONGEST_ENTRY // 2]:
        raise ConfigError(f"{path}: '{too_long[0][:40]}…' is longer than {LONGEST_ENTRY // 2} characters")
    return words
