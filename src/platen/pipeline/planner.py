"""Which stages are fresh, which are stale and why: worked out from fingerprints, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platen.core.artifacts import FileEntry, Manifest, SourceIndex, Store, fingerprint
from platen.core.stage import Stage
from platen.pipeline.differences import changes


@dataclass(frozen=True)
class PlannedStage:
    """A stage with the fingerprint its artifact has, or would have.

    `made` is its manifest when fresh. `why` says what is stale about it, and is empty when fresh.
    """

    stage: Stage
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]
    sources: tuple[FileEntry, ...]
    made: Manifest | None
    why: str

    @property
    def fresh(self) -> bool:
        return self.made is not None


def plan(
    stages: tuple[Stage, ...],
    store: Store,
    *,
    seed: int,
    directory: Path,
    index: SourceIndex,
    redact: Callable[[Any], Any] = lambda value: value,
) -> tuple[PlannedStage, ...]:
    """Fingerprint every stage and look each up in the store.

    `redact` takes values that came from the environment out of what is recorded and hashed, so that a
    new password is neither written down nor a reason to train again.
    """
    earlier: dict[str, Manifest] = {}
    for manifest in store.manifests():
        earlier[manifest.name] = manifest  # the newest of a name wins
    planned: dict[str, PlannedStage] = {}
    for stage in stages:
        config = redact(stage.config.model_dump(mode="json")) | ({"seed": seed} if stage.spec.seeded else {})
        inputs = {
            role: f"{upstream}/{planned[upstream].fingerprint}" for role, upstream in stage.inputs.items()
        }
        sources = tuple(_describe(source, directory, index, redact) for source in stage.sources)
        hashed = inputs | {f"source:{s.path}": s.sha256 for s in sources}
        print_ = fingerprint(stage.name, stage.spec.version, config, hashed)
        made, damage = store.check(stage.name, print_)
        entry = PlannedStage(stage, print_, config, inputs, sources, made, "")
        if made is None:
            why = damage or _why(entry, earlier.get(stage.name), planned)
            entry = PlannedStage(stage, print_, config, inputs, sources, None, why)
        planned[stage.name] = entry
    index.save()
    return tuple(planned.values())


def _describe(
    source: Path | str, directory: Path, index: SourceIndex, redact: Callable[[Any], Any]
) -> FileEntry:
    if isinstance(source, Path):
        label = source.relative_to(directory) if source.is_relative_to(directory) else source
        return index.describe(source, label.as_posix())
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(source)
    info = filesystem.info(path)
    return FileEntry(
        path=redact(source), size=int(info.get("size") or 0), sha256=str(filesystem.checksum(path))
    )


def _why(entry: PlannedStage, earlier: Manifest | None, planned: Mapping[str, PlannedStage]) -> str:
    if earlier is None:
        return "never made"
    reasons = []
    version = entry.stage.spec.version
    if earlier.code_version != version:
        reasons.append(f"its code changed (version {earlier.code_version} → {version})")
    reasons += changes(earlier.config, entry.config)
    reasons += _source_changes(earlier.sources, entry.sources)
    for role, ref in entry.inputs.items():
        if earlier.inputs.get(role) != ref:
            upstream = planned[entry.stage.inputs[role]]
            reasons.append(f"{role} {'is another one' if upstream.fresh else 'is stale'}")
    return "; ".join(reasons) or "its artifact was removed"


def _source_changes(old: tuple[FileEntry, ...], new: tuple[FileEntry, ...]) -> list[str]:
    before, after = {s.path: s.sha256 for s in old}, {s.path: s.sha256 for s in new}
    groups = {
        "new": sorted(after.keys() - before.keys()),
        "gone": sorted(before.keys() - after.keys()),
        "changed": sorted(p for p in before.keys() & after.keys() if before[p] != after[p]),
    }
    return [
        f"{change}: {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        for change, paths in groups.items()
        if paths
    ]
