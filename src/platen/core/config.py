"""What every section of the project file is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0, le=10**15)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
StepName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]


class Section(BaseModel):
    """A part of the project file. Unknown keys are refused; types are not coerced from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
