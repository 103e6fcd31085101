"""A Hugging Face data set by its name or local folder, streamed: one document a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from platen.core.errors import first_line
from platen.data.document import Broken, Record
from platen.data.readers.needs import needs
from platen.data.readers.records import document_of
from platen.data.sourcefile import SourceFile


def read(file: SourceFile) -> Iterator[Record]:
    needs("datasets", "reading a Hugging Face data set")
    number = 0
    try:
        for number, row in enumerate(_rows(file), start=1):
            yield document_of(row, file, f"{file.name}:{number}", f"{file.name}, row {number}")
    except Exception as error:  # the library, its readers and its network each have their own
        said = first_line(error)
        yield Broken(
            f"{file.name}, row {number + 1}",
            "unreadable",
            f"{file.name}: {said}",
            "Check the name, subset, split and revision, and that it can be reached.",
        )
        return
    if number == 0:
        yield file.empty()


def _rows(file: SourceFile) -> Any:
    import datasets

    source = file.source
    if not isinstance(file.location, Path):
        return datasets.load_dataset(
            file.location, source.subset, split=source.split, revision=source.revision, streaming=True
        )
    folder = file.location
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():  # of save_to_disk
        loaded = datasets.load_from_disk(str(folder))
        return loaded[source.split] if isinstance(loaded, datasets.DatasetDict) else loaded
    return datasets.load_dataset(str(folder), source.subset, split=source.split, streaming=True)
