"""The stage `instruct`, declared: documents and finished pairs become an instruction set."""

from __future__ import annotations

from pathlib import Path

from platen.core.stage import Sources, StageSpec, needs
from platen.data.instruct.config import InstructConfig


def _sources(config: InstructConfig, directory: Path) -> Sources:
    from platen.data.instruct.sources import pair_files

    return pair_files(directory, config)


INSTRUCT = StageSpec(
    name="instruct",
    kind="instructions",
    config=InstructConfig,
    run="platen.data.instruct.make:make_instructions",
    inputs={"data": needs("data")},
    version=2,
    settings=lambda project: project.section("instruct", InstructConfig),
    sources=_sources,
    extra="data",
)
