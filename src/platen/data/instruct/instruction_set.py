"""The artifact of the stage `instruct`: conversations as JSON lines, one file a split, report and card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from platen.core.errors import DataError
from platen.core.kinds.data_splits import SPLITS
from platen.data.instruct.messages import Example, read_examples, write_examples
from platen.data.instruct.sources import Reject


@dataclass(frozen=True)
class InstructionSet:
    """An instruction set in a folder."""

    folder: Path

    @property
    def report(self) -> Path:
        """Its figures as JSON."""
        return self.folder / "report.json"

    @property
    def page(self) -> Path:
        """The same for people."""
        return self.folder / "report.html"

    @property
    def card(self) -> Path:
        """The dataset card."""
        return self.folder / "README.md"

    @property
    def classifier(self) -> Path:
        """The folder of the classifier that tagged it, where one did."""
        return self.folder / "classifier"

    def path(self, split: str) -> Path:
        """The file of one split."""
        return self.folder / f"{split}.jsonl"

    @property
    def quarantine(self) -> Path:
        """The records that could not be read, as JSON lines."""
        return self.folder / "quarantine.jsonl"

    def read(self) -> dict[str, list[Example]]:
        """The examples by split, without splits that have no file. Raises DataError where there is no set."""
        if not self.path("train").is_file():
            raise DataError(
                f"{self.folder} is no instruction set: it has no {self.path('train').name}",
                hint="platen run instruct",
            )
        files = {split: self.path(split) for split in SPLITS}
        return {split: list(read_examples(file)) for split, file in files.items() if file.is_file()}

    def write(self, splits: Mapping[str, Iterable[Example]], rejects: Iterable[Reject]) -> None:
        """Write every split's examples, and what could not be read."""
        for split, examples in splits.items():
            write_examples(self.path(split), examples)
        with self.quarantine.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in rejects)
