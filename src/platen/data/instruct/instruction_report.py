"""What an instruction set says of itself: `report.json`, a page `report.html` and the dataset card
`README.md`.

The card opens with the metadata block that dataset hubs read, and says what is in the set, what it was
made from, how it is balanced and what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from platen.core.kinds.data_splits import SPLITS
from platen.core.pages import render_page
from platen.core.wording import counted
from platen.data.instruct.acts import ACTS, MEANINGS
from platen.data.instruct.balance import Balance, percent
from platen.data.instruct.instruction_set import InstructionSet
from platen.data.instruct.messages import Example

_SAMPLES = 5


@dataclass(frozen=True)
class Lengths:
    """Characters of prompts or answers."""

    median: int
    p90: int
    longest: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> Lengths:
        lengths = sorted(map(len, texts)) or [0]
        return cls(lengths[len(lengths) // 2], lengths[int(0.9 * (len(lengths) - 1))], lengths[-1])


@dataclass(frozen=True)
class InstructReport:
    """The figures of one version. `left_out` and `quarantined` account for everything that is not in it."""

    name: str
    version: str
    splits: Mapping[str, int]
    messages: int
    shapes: Mapping[str, int]
    prompts: Lengths
    answers: Lengths
    left_out: Mapping[str, int]
    quarantined: int
    tagged_by: str
    balance: Balance | None

    @property
    def examples(self) -> int:
        return sum(self.splits.values())


def write_report(folder: Path, report: InstructReport, examples: Sequence[Example]) -> None:
    """Write all three; some examples from all over the set are shown."""
    samples = examples[:: max(1, len(examples) // _SAMPLES)][:_SAMPLES]
    made = InstructionSet(folder)
    made.report.write_text(json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n", "utf-8")
    made.card.write_text(_card(made, report, samples), "utf-8")
    made.page.write_text(_page(report, samples), "utf-8")


def _card(made: InstructionSet, report: InstructReport, samples: Sequence[Example]) -> str:
    named = [(split, made.path(split).name) for split in SPLITS if report.splits.get(split)]
    files = [f"  - split: {split}\n    path: {name}" for split, name in named]
    lines = [
        "---",
        f"pretty_name: {json.dumps(report.name, ensure_ascii=False)}",
        "task_categories: [text-generation]",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *files,
        "---",
        "",
        f"# {report.name}",
        "",
        f"Version `{report.version}`: {counted(report.examples, 'conversation')}, "
        f"{counted(report.messages, 'message')}. "
        "Each line of a file has `messages` with `role` and `content`, the example's `id` and `source`, the "
        "`shape` it was made from and one speech act a message in `acts`.",
        "",
        *_table("split", "conversations", report.splits),
        *_table("made from", "conversations", report.shapes),
        "## Lengths",
        "",
        "| characters | median | 90% below | longest |",
        "| --- | ---: | ---: | ---: |",
        f"| prompts | {report.prompts.median:,} | {report.prompts.p90:,} | {report.prompts.longest:,} |",
        f"| answers | {report.answers.median:,} | {report.answers.p90:,} | {report.answers.longest:,} |",
        "",
    ]
    if report.balance:
        lines += _card_balance(report.balance, report.tagged_by)
    lines += [
        "## What is not in it",
        "",
        f"{counted(report.quarantined, 'record')} could not be read (`quarantine.jsonl`).",
        "",
    ]
    lines += _table("left out", "conversations or documents", report.left_out)
    for sample in samples[:1]:
        lines += ["## An example", "", "```json", sample.line(), "```", ""]
    return "\n".join(lines)


def _card_balance(balance: Balance, tagged_by: str) -> list[str]:
    rows = [
        f"| {act} | {balance.user[act]:,} | {balance.assistant[act]:,} | {MEANINGS[act]} |" for act in ACTS
    ]
    head = ["| act | users | answers | what it is |", "| --- | ---: | ---: | --- |"]
    said = f"Tagged by {tagged_by}. Gaps in what users do: {balance.summary}."
    return ["## Speech acts", "", said, "", *head, *rows, ""]


def _table(left: str, right: str, rows: Mapping[str, int]) -> list[str]:
    if not rows:
        return []
    body = [f"| {name} | {count:,} |" for name, count in rows.items()]
    return [f"| {left} | {right} |", "| --- | ---: |", *body, ""]


def _page(report: InstructReport, samples: Sequence[Example]) -> str:
    rows = []
    if report.balance:
        total = sum(report.balance.user.values())
        rows = [
            (act, count, count / total, percent(count / total)) for act, count in report.balance.user.items()
        ]
    return render_page(
        "platen.data.instruct", "report.html.j2", report=report, acts=rows, samples=samples, meanings=MEANINGS
    )
