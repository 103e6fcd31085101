"""Real text of whatever machine this is: Python's standard library and what lies under /usr/share/doc."""

from __future__ import annotations

import gzip
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from platen.data.sources import Document

DOCS = Path("/usr/share/doc")


def machine_texts(seed: int | None = None) -> Iterator[Document]:
    """Each file that is UTF-8 text, in the order of their paths or, with a seed, of chance."""
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts]
    paths = [*sources, *sorted(DOCS.rglob("*"))]
    if seed is not None:
        random.Random(seed).shuffle(paths)
    for path in paths:
        try:
            raw = path.read_bytes() if path.is_file() else b""
            text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        except (OSError, EOFError, ValueError):  # unreadable, damaged, or no text
            continue
        if text.strip() and "\0" not in text:
            yield Document(str(path), text, str(path))


def passages(words: int = 200) -> Iterator[str]:
    """Runs of about so many words, cut at line ends; no two share 13 words in a row."""
    seen: set[tuple[str, ...]] = set()
    for document in machine_texts():
        lines: list[str] = []
        size = 0
        for line in document.text.splitlines():
            lines.append(line)
            size += len(line.split())
            if size < words:
                continue
            passage, lines, size = "\n".join(lines).strip(), [], 0
            spoken = re.findall(r"[^\W_]+", passage.lower())
            runs = {tuple(spoken[at : at + 13]) for at in range(len(spoken) - 12)}
            if runs.isdisjoint(seen) and len(passage) < 20 * words:
                seen |= runs
                yield passage
