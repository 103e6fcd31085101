"""The stage `data`: sources in, three clean and disjoint splits out, with an account of everything dropped.

Documents stream through a spool file, so memory holds one text and a few hundred bytes for each other one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from platen.core.errors import DataError, MissingExtraError
from platen.core.kinds.data_splits import SPLITS, DataSplits, SplitName
from platen.core.stage import StageContext, StageResult
from platen.core.wording import counted
from platen.data.clean import CleaningCounts, clean_text
from platen.data.config import CleanConfig, DataConfig
from platen.data.intake import Intake
from platen.data.sources import Document, SourceFile, find_files
from platen.data.split import Item, assign, item_of

_LISTED = 100  # names in the report; a web-sized corpus has too many to list


@dataclass
class Dropped:
    """Documents left out for one reason; the first hundred by name."""

    documents: int = 0
    characters: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str, characters: int) -> None:
        self.add_all(1, characters, (name,))

    def add_all(self, documents: int, characters: int, names: Sequence[str]) -> None:
        """Add several, of which the first `names` are known."""
        self.documents += documents
        self.characters += characters
        self.names += names[: _LISTED - len(self.names)]


@dataclass
class SplitReport:
    """One split: `bytes` are UTF-8; the first hundred documents by name."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str, text: str) -> None:
        self.documents += 1
        self.characters += len(text)
        self.bytes += len(text.encode())
        if len(self.names) < _LISTED:
            self.names.append(name)


@dataclass
class Report:
    """`report.json`: what was read, changed, dropped and kept.

    `quarantined` counts what could not be read, `left_out` what a reader passes over on purpose, by reason.
    """

    files: int = 0
    documents_read: int = 0
    characters_read: int = 0
    cleaning: CleaningCounts = field(default_factory=CleaningCounts)
    quarantined: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, Dropped] = field(
        default_factory=lambda: {"too_short": Dropped(), "duplicate": Dropped()}
    )
    filters: list[dict[str, Any]] = field(default_factory=list)
    splits: dict[str, SplitReport] = field(default_factory=lambda: {name: SplitReport() for name in SPLITS})


def prepare(ctx: StageContext[DataConfig]) -> StageResult:
    """Write `train.jsonl`, `validation.jsonl`, `test.jsonl` and `report.json`.

    What can't be read is a DataError, or with `on_error: quarantine` a line in `quarantine.jsonl`. Raises
    DataError too for a source of which nothing can be read and for a corpus that can't be split.
    """
    config = ctx.config
    report, made = Report(), DataSplits(ctx.out)
    spool = ctx.out / "documents.tmp"
    with Intake(config.on_error, made.quarantine) as intake:
        documents = _read(ctx, find_files(ctx.project_dir, config), config.clean, report, intake)
        if config.filters is not None:
            try:
                from platen.data.filters.stage import filtered
            except ImportError:
                raise MissingExtraError("data", "data.filters") from None
            documents = filtered(ctx, config.filters, documents, report.dropped, report.filters)
        items = _keep(documents, config, report, spool)
        intake.check()
    report.quarantined, report.left_out = dict(intake.quarantined), dict(intake.left_out)
    if report.quarantined:
        reasons = ", ".join(f"{count} {reason}" for reason, count in intake.quarantined.most_common())
        ctx.progress.say(f"Could not read, see {made.quarantine.name}: {reasons}.")
    _say_dropped(ctx, report.dropped)
    if not items:
        raise _empty(report)
    _write_splits(ctx, spool, items, config, report)
    spool.unlink()
    made.report.write_text(json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    metrics = {f"{name}_documents": float(split.documents) for name, split in report.splits.items()}
    metrics |= {f"{name}_characters": float(split.characters) for name, split in report.splits.items()}
    if report.quarantined:
        metrics["quarantined"] = float(sum(report.quarantined.values()))
    metrics |= {f"dropped_{reason}": float(dropped.documents) for reason, dropped in report.dropped.items()}
    return StageResult(metrics=metrics)


def _say_dropped(ctx: StageContext[DataConfig], dropped: Mapping[str, Dropped]) -> None:
    for reason, lost in dropped.items():
        if lost.documents:
            ctx.progress.say(f"Dropped {counted(lost.documents, 'document')}: {reason.replace('_', ' ')}.")


def _losses(report: Report) -> str:
    """`3 too short, 7 language`; nothing when nothing was dropped."""
    lost = ((reason.replace("_", " "), dropped.documents) for reason, dropped in report.dropped.items())
    return ", ".join(f"{documents:,} {reason}" for reason, documents in lost if documents)


def _empty(report: Report) -> DataError:
    """Why no document is left: what dropped the last comes last, as nothing reaches the blocks behind it."""
    if not report.documents_read:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in report.left_out.items())
        return DataError(
            "the corpus is empty: there is no document in its sources"
            + (f"; left out: {left_out}" if left_out else ""),
            hint="Look at data.sources.",
        )
    last = next((block["name"] for block in reversed(report.filters) if block["removed"]), None)
    return DataError(
        f"the corpus is empty: of {counted(report.documents_read, 'document')} none is left, "
        f"dropped: {_losses(report)}",
        hint=f"{last} dropped the last: loosen this block of data.filters, or take it out."
        if last
        else "Lower data.clean.min_characters, or give longer documents.",
    )


def _read(
    ctx: StageContext[DataConfig],
    files: tuple[SourceFile, ...],
    config: CleanConfig,
    report: Report,
    intake: Intake,
) -> Iterator[Document]:
    """Read and clean every document; those that are too short are dropped."""
    done = kept = 0
    total = sum(file.size() for file in files)
    with ctx.progress.task("reading documents", total=total, unit="B") as task:
        for file in files:
            report.files += 1
            for document in intake.documents(file):
                report.documents_read += 1
                report.characters_read += len(document.text)
                text = clean_text(document.text, config, report.cleaning)
                if len(text) < max(config.min_characters, 1):
                    report.dropped["too_short"].add(document.id, len(text))
                    continue
                kept += 1
                yield replace(document, text=text)
            done += file.size()
            task.update(done, note=counted(kept, "document"))


def _keep(documents: Iterable[Document], config: DataConfig, report: Report, spool: Path) -> list[Item]:
    """Write the documents into the spool file, each text once; return those kept, in its order."""
    items: list[Item] = []
    first_with: dict[str, str] = {}
    with spool.open("w", encoding="utf-8") as out:
        for document in documents:
            digest = hashlib.sha256(document.text.encode()).hexdigest()
            if config.clean.deduplicate and digest in first_with:
                name = f"{document.id} = {first_with[digest]}"
                report.dropped["duplicate"].add(name, len(document.text))
                continue
            first_with[digest] = document.id
            item = item_of(
                document.id,
                len(document.text),
                digest,
                source=document.source,
                metadata=document.metadata,
                config=config.split,
            )
            items.append(item)
            out.write(_line(document))
    return items


def _write_splits(
    ctx: StageContext[DataConfig], spool: Path, items: list[Item], config: DataConfig, report: Report
) -> None:
    try:
        place = assign(items, config.split)
    except DataError as error:
        if lost := _losses(report):
            read = counted(report.documents_read, "document")
            raise DataError(f"{error.message}; of {read}, dropped: {lost}", hint=error.hint) from None
        raise
    touched = _touching_held_out(spool, place, config)
    across = Dropped()
    made = DataSplits(ctx.out)
    outputs = {name: made.path(name).open("w", encoding="utf-8") for name in SPLITS}
    try:
        with (
            ctx.progress.task("writing splits", total=len(items), unit="documents") as task,
            spool.open(encoding="utf-8") as lines,
        ):
            for done, (item, line) in enumerate(zip(items, lines, strict=True), start=1):
                if item.id in touched:
                    across.add(item.id, item.characters)
                    continue
                outputs[place[item.id]].write(line)
                report.splits[place[item.id]].add(item.id, json.loads(line)["text"])
                task.update(done)
    finally:
        for output in outputs.values():
            output.close()
    if across.documents:
        report.dropped["across_splits"] = across
        _say_dropped(ctx, {"across_splits": across})


def _touching_held_out(spool: Path, place: dict[str, SplitName], config: DataConfig) -> set[str]:
    """Training documents that share a passage with the held-out splits, where a block asks for that."""
    if config.filters is None:
        return set()
    from platen.data.filters.stage import touching_held_out

    return touching_held_out(spool, place, config.filters)


def _line(document: Document) -> str:
    return json.dumps(asdict(document), ensure_ascii=False) + "\n"
