"""What people label: items of one of three tasks, the judgements on them, and what a set of items is
called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from platen.data.instruct.acts import MEANINGS

Task = Literal["label", "review", "compare"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Choice:
    """A value that a judgement may have. `key` is what is pressed for it, `meaning` a word of explanation."""

    value: str
    key: str
    meaning: str = ""


@dataclass(frozen=True)
class Item:
    """One thing to judge. `answers` is empty when labelling, one when reviewing, two when comparing.

    `id` is unique in a set; `metadata` goes through unchanged.
    """

    id: str
    text: str
    answers: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What an annotator says of an item. `text` is the corrected answer, with the value `correct`."""

    item: str
    annotator: str
    value: str
    text: str = ""
    time: str = ""
    """When, in ISO form and UTC; the store's clock."""


@dataclass(frozen=True)
class TaskSet:
    """What is asked: the task, its choices and a title."""

    title: str
    task: Task
    choices: tuple[Choice, ...]


def task_set(title: str, task: Task, labels: tuple[str, ...] = ()) -> TaskSet:
    """A task with its choices; when labelling these are `labels`, by default the seven speech acts."""
    choices: tuple[Choice, ...]
    if task == "review":
        choices = (
            Choice("accept", "a", "good as it is"),
            Choice("correct", "e", "write a better answer"),
            Choice("reject", "r", "leave it out"),
        )
    elif task == "compare":
        choices = (
            Choice("first", "1", "the first is better"),
            Choice("second", "2", "the second is better"),
            Choice("tie", "3", "no difference"),
        )
    else:
        meanings: Mapping[str, str] = {} if labels else {str(act): said for act, said in MEANINGS.items()}
        keys = [*"123456789", *"qwertzuiop"]
        values = labels or tuple(MEANINGS)
        choices = tuple(
            Choice(value, keys[number] if number < len(keys) else "", meanings.get(value, ""))
            for number, value in enumerate(values)
        )
    return TaskSet(title, task, choices)
