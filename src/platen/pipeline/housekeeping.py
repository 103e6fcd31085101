"""What may be removed: artifacts that no release and no latest run stands on, work left unfinished, and
models of references that no block has any more."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from platen.core.artifacts import Manifest
from platen.core.errors import DataError
from platen.pipeline.runner import Pipeline


@dataclass(frozen=True)
class Garbage:
    """What `collect` would free: artifacts, leftover work directories, references' models, bytes in all."""

    artifacts: tuple[Manifest, ...]
    leftovers: tuple[Path, ...]
    references: tuple[Path, ...]
    size: int


def needed(manifests: Iterable[Manifest], roots: Iterable[str]) -> set[str]:
    """The refs reachable from `roots` through inputs."""
    by_ref = {manifest.ref: manifest for manifest in manifests}
    found: set[str] = set()
    queue = [ref for ref in roots if ref in by_ref]
    while queue:
        ref = queue.pop()
        if ref not in found:
            found.add(ref)
            queue.extend(r for r in by_ref[ref].inputs.values() if r in by_ref)
    return found


def find_garbage(pipeline: Pipeline) -> Garbage:
    """What nothing needs. A stale stage's unfinished work is kept when the project would resume it."""
    manifests = pipeline.store.manifests()
    planned = pipeline.plan()
    roots = [f"{entry.stage.name}/{entry.fingerprint}" for entry in planned]
    stages = {entry.stage.name for entry in planned}  # what a removed variant left is garbage
    roots += [ref for name, ref in pipeline.latest().items() if name in stages]
    roots += [manifest.ref for manifest in manifests if manifest.kind == "release"]
    keep = needed(manifests, roots)
    resumable = {f"{e.stage.name}-{e.fingerprint}" for e in planned if e.stage.spec.resumable and not e.fresh}
    artifacts = tuple(m for m in manifests if m.ref not in keep)
    leftovers = tuple(p for p in pipeline.store.leftovers() if p.name not in resumable)
    references = _unused_references(pipeline)
    size = sum(m.size for m in artifacts) + sum(_size(path) for path in (*leftovers, *references))
    return Garbage(artifacts, leftovers, references, size)


def collect(pipeline: Pipeline, garbage: Garbage) -> None:
    """Remove it. The caller holds the project's lock."""
    for manifest in garbage.artifacts:
        pipeline.store.delete(manifest)
    for path in (*garbage.leftovers, *garbage.references):
        shutil.rmtree(path)


def _unused_references(pipeline: Pipeline) -> tuple[Path, ...]:
    """None where that can't be told: without the extra [data], and for a reference that can't be read."""
    try:
        from platen.data.filters.reference import unused_references

        filters = pipeline.project.data.filters
        return tuple(unused_references(pipeline.directory, filters.blocks if filters else ()))
    except (DataError, ImportError):
        return ()


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
