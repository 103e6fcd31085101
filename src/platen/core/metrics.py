"""What a figure in a report is: its name, which way is better, its unit, and how it is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

SubjectT = TypeVar("SubjectT")


@dataclass(frozen=True)
class Metric(Generic[SubjectT]):
    """One figure. `better` None: neither more nor less of it is better as such (a size, a count).

    `measure` takes it from what the stage has measured; None for a stage that counts it by itself.
    """

    name: str
    better: Literal["lower", "higher"] | None
    unit: str = ""
    measure: Callable[[SubjectT], float] | None = None
