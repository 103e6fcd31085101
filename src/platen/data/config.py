"""The project file's `data`: where documents come from, in which format, how they are cleaned and split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from platen.core.checks import check_split
from platen.core.config import Fraction, PathInFile, Section, Text
from platen.data.filters.config import FiltersConfig
from platen.data.readers.config import OnError, ReadLimits, Source


class CleanConfig(Section):
    """What is done to each document before the split."""

    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normalisation form."""
    min_characters: Annotated[int, Field(ge=0)] = 3
    """Documents shorter than this after cleaning are dropped and counted."""
    deduplicate: bool = True
    """Drop documents whose cleaned text is exactly the same as an earlier one's."""


class SplitConfig(Section):
    """Documents are assigned whole, so no text is in two splits."""

    by: Literal["document", "hash", "group", "time"] = "document"
    """`document`: exact shares; `hash`, `group`: adding data moves no document or group; `time`: by dates."""
    key: Text | None = None
    """Metadata key with the group or time, or `source` for a document's file. Only by group or time."""
    validation_from: Text | None = None
    """An ISO date or time from which documents are for validation. Only by time, which takes no shares."""
    test_from: Text | None = None
    """Later than `validation_from`; from then on they are for the test."""
    validation: Fraction | tuple[str, ...] = 0.1
    """A fraction of the characters (documents chosen by hash), or the names of documents."""
    test: Fraction | tuple[str, ...] = 0.0
    """Held out for the last word; same forms as `validation`."""

    @model_validator(mode="after")
    def _leaves_training_text(self) -> SplitConfig:
        check_split(self.by, self.key, self.validation_from, self.test_from)
        if self.by != "document" and (isinstance(self.validation, tuple) or isinstance(self.test, tuple)):
            raise ValueError("documents can be listed only when splitting by document")
        if not self.validation:
            raise ValueError("validation is empty; training needs it to choose its best checkpoint")
        if isinstance(self.validation, float) and isinstance(self.test, float):
            if self.validation + self.test >= 1:
                raise ValueError(
                    f"validation ({self.validation:g}) and test ({self.test:g}) leave nothing to train on"
                )
        elif isinstance(self.validation, tuple) and isinstance(self.test, tuple):
            both = len(set(self.validation) & set(self.test))
            if both:
                raise ValueError(f"test and validation share documents ({both}); one split each")
        return self

    @property
    def has_test(self) -> bool:
        """Whether there is to be a test split."""
        return self.test_from is not None if self.by == "time" else bool(self.test)


class DataConfig(Section):
    """The text: from where, how it is cleaned, how it is split."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Read in this order."""
    on_error: OnError = "stop"
    """A record or file that can't be read: `stop` there, or put it aside in quarantine.jsonl and go on."""
    limits: ReadLimits = ReadLimits()
    """What is too much for one record."""
    clean: CleanConfig = CleanConfig()
    """Cleaning."""
    split: SplitConfig = SplitConfig()
    """Which documents training never sees."""
    filters: FiltersConfig | None = None
    """When given, documents pass these blocks between cleaning and splitting."""

    def paths(self) -> Iterator[PathInFile]:
        for number, source in enumerate(self.sources):
            yield PathInFile(f"sources.{number}", source.path, "documents", source)
