"""What a model would say of the items, shown on the page until the annotator has decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from platen.core.errors import ConfigError
from platen.data.instruct.act_classifier import ABOUT_FILE, ActClassifier
from platen.data.instruct.acts import ACTS, Act, RuleActs
from platen.data.labelling.items import Item, TaskSet

RULES = "rules"


def suggest(by: str, tasks: TaskSet, items: Sequence[Item]) -> dict[str, str]:
    """Item → speech act, by `rules`, a classifier's folder or a model's folder.

    Raises ConfigError when something else than speech acts is asked for, or the folder holds neither.
    """
    if {choice.value for choice in tasks.choices} != set(ACTS):
        raise ConfigError(
            f"--suggest: {by} suggests speech acts, and the task has other choices",
            hint="Leave --suggest out, or --label and --task.",
        )
    acts = _acts(by, [item.text for item in items])
    return {item.id: act for item, act in zip(items, acts, strict=True)}


def _acts(by: str, texts: Sequence[str]) -> list[Act]:
    if by == RULES:
        return RuleActs().tag(texts)
    folder = Path(by)
    if (folder / ABOUT_FILE).is_file():
        return ActClassifier.load(folder).tag(texts)
    if folder.is_dir():
        from platen.data.instruct.act_llm import tag_with_bundle

        return tag_with_bundle(folder, texts)
    raise ConfigError(
        f"--suggest: there is no folder {folder}", hint=f"Give {RULES}, a classifier's folder or a model's."
    )
