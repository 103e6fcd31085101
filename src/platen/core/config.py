"""What every section of the project file is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0, le=10**15)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
StepName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]


@dataclass(frozen=True)
class PathInFile:
    """A path that a section names under `key`; `holds` says what has to be there.

    One of: file, word list, block list, patterns, n-grams, draft n-grams, bundle, tagger, classifier, model
    (any reference to one), documents, reference, pairs, template. `section` is the one that says how it is
    read.
    """

    key: str
    path: str
    holds: str
    section: Section


class Section(BaseModel):
    """A part of the project file. Unknown keys are refused; types are not coerced from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    def paths(self) -> Iterable[PathInFile]:
        """The paths that this section names itself, not those of the sections in it."""
        return ()


def paths_in(section: Section) -> Iterator[PathInFile]:
    """The paths that a section and those in it name, each with its whole key, as in the file."""
    yield from section.paths()
    for name, field in type(section).model_fields.items():
        for place, below in _sections(getattr(section, name), field.alias or name):
            yield from (replace(found, key=f"{place}.{found.key}") for found in paths_in(below))


def _sections(value: Any, key: str) -> Iterator[tuple[str, Section]]:
    if isinstance(value, Section):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _sections(item, f"{key}.{name}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for number, item in enumerate(value):
            yield from _sections(item, f"{key}.{number}")
