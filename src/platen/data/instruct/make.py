"""The stage `instruct`: documents and finished pairs in, an instruction set with acts, report and card
out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from platen.core.errors import DataError
from platen.core.stage import StageContext, StageResult
from platen.core.wording import counted
from platen.data.instruct.act_classifier import read_labels, train_classifier
from platen.data.instruct.acts import Act, RuleActs
from platen.data.instruct.balance import balance_of
from platen.data.instruct.collect import Collected, collect
from platen.data.instruct.config import ActsConfig, InstructConfig
from platen.data.instruct.instruction_report import InstructReport, Lengths, write_report
from platen.data.instruct.instruction_set import InstructionSet
from platen.data.instruct.versions import version_of

_BATCH = 512


def make_instructions(ctx: StageContext[InstructConfig]) -> StageResult:
    """Write a JSONL file a split, `quarantine.jsonl`, `report.json`, `report.html` and the card `README.md`.

    With `acts.by: classifier` also the folder `classifier`. Raises DataError when nothing is left.
    """
    config = ctx.config
    collected = collect(ctx.project_dir, ctx.input("data").path, config)
    if not collected.splits["train"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in collected.left_out.items())
        raise DataError(
            f"the instruction set is empty: {counted(len(collected.rejects), 'record')} could not be read"
            + (f"; left out: {reasons}" if reasons else ""),
            hint="Look at instruct.sources and instruct.build.",
        )
    tagged_by = _tag(ctx, config.acts, collected)
    made = InstructionSet(ctx.out)
    made.write(collected.splits, collected.rejects)
    report = _report(ctx.project_dir.resolve().name, config, collected, tagged_by)
    write_report(ctx.out, report, collected.splits["train"])
    if collected.rejects:
        ctx.progress.say(
            f"{counted(len(collected.rejects), 'record')} could not be read: see {made.quarantine.name}."
        )
    if report.balance:
        ctx.progress.say(f"Speech acts of users: {report.balance.summary}.")
    metrics = {f"{split}_examples": float(count) for split, count in report.splits.items()}
    metrics |= {"messages": float(report.messages), "quarantined": float(report.quarantined)}
    notes = {"dataset_version": report.version}
    return StageResult(metrics, notes | ({"acts": report.balance.summary} if report.balance else {}))


def _report(name: str, config: InstructConfig, collected: Collected, tagged_by: str) -> InstructReport:
    examples = list(collected.examples())
    return InstructReport(
        name=name,
        version=version_of(collected.splits),
        splits={split: len(found) for split, found in collected.splits.items()},
        messages=sum(len(example.messages) for example in examples),
        shapes=dict(collected.shapes.most_common()),
        prompts=Lengths.of([example.prompt for example in examples]),
        answers=Lengths.of([example.answer for example in examples]),
        left_out=dict(collected.left_out.most_common()),
        quarantined=len(collected.rejects),
        tagged_by=tagged_by,
        balance=balance_of(examples, config.acts.min_share),
    )


def _tag(ctx: StageContext[InstructConfig], config: ActsConfig, collected: Collected) -> str:
    """Give every message its act; returns by what, in words."""
    if config.by == "nothing":
        return "nothing"
    texts = list(dict.fromkeys(message.text for one in collected.examples() for message in one.messages))
    with ctx.progress.task("tagging speech acts", total=len(texts), unit="messages"):
        if config.by == "llm":
            from platen.data.instruct.act_llm import tag_with_bundle

            found, said = (
                tag_with_bundle(ctx.project_dir / (config.bundle or ""), texts),
                f"the model {config.bundle}",
            )
        elif config.by == "classifier":
            found, said = _by_classifier(ctx, ctx.project_dir / (config.labels or ""), texts)
        else:
            found, said = RuleActs().tag(texts), "rules"
    acts = dict(zip(texts, found, strict=True))
    for split, examples in collected.splits.items():
        collected.splits[split] = [
            replace(example, acts=tuple(acts[message.text] for message in example.messages))
            for example in examples
        ]
    return said


def _by_classifier(
    ctx: StageContext[InstructConfig], labels: Path, texts: list[str]
) -> tuple[list[Act], str]:
    classifier = train_classifier(read_labels(labels))
    classifier.save(InstructionSet(ctx.out).classifier)
    batches = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
    acts = [act for batch in batches for act in classifier.tag(batch)]
    training = classifier.training
    said = f"a classifier of {training.examples} labelled examples"
    if training.accuracy is not None:
        said += f" (cross-validated accuracy {training.accuracy:.0%}, macro F1 {training.macro_f1:.2f})"
    return acts, said
