"""Lays changes over a valid pydantic model, as a variant does with a section of the project file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def overlaid(base: Model, changes: Mapping[str, Any]) -> Model:
    """`base` with `changes` in place of what they name, section within section, validated strictly anew.

    Keys that `base` leaves at their defaults stay unset; those that no output depends on are kept too. Raises
    pydantic's `ValidationError`.
    """
    below = base.model_dump(mode="json", by_alias=True, exclude_unset=True)
    fields = type(base).model_fields
    below |= {name: getattr(base, name) for name in base.model_fields_set if fields[name].exclude}
    data = _over(below, changes)
    return type(base).model_validate_json(json.dumps(data), strict=True)


def _over(below: Any, above: Any) -> Any:
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}
    return above
