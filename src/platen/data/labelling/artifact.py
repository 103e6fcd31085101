"""Puts what people decided into the project's store, as an artifact of kind `labels`."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict

from platen.core.artifacts import Artifact, Manifest, Store, fingerprint, made_with, now
from platen.core.errors import DataError
from platen.data.labelling.agreement import agreement, ratings_of, settled
from platen.data.labelling.formats import Format, write_items
from platen.data.labelling.store import LabelStore

NAME = KIND = "labels"
LABELS_FILE, AGREEMENT_FILE = "labels.jsonl", "agreement.json"
_VERSION = 1


def export_text(store: LabelStore, format: Format) -> str:
    """The judgements in a format of `formats`. Raises DataError for a file with none."""
    tasks, judgements = store.tasks(), store.judgements()
    if tasks is None or not judgements:
        raise DataError(f"{store.file} holds no labels", hint=f"platen data label --db {store.file} FILE")
    ratings = ratings_of(judgements)
    return write_items(format, tasks, store.items(), judgements, settled(ratings))


def export_artifact(labels: LabelStore, store: Store) -> Artifact:
    """`labels.jsonl` and `agreement.json`, named by their contents: what is there already is given back."""
    began = time.monotonic()
    lines = export_text(labels, "jsonl")
    judgements = labels.judgements()
    found = agreement(ratings_of(judgements))
    tasks = labels.tasks()
    config = {"task": tasks.task, "title": tasks.title} if tasks else {}
    print_ = fingerprint(NAME, _VERSION, config, {LABELS_FILE: hashlib.sha256(lines.encode()).hexdigest()})
    there = store.find(NAME, print_)
    if there is not None:
        return there
    work = store.work_dir(NAME, print_, keep=False)
    (work / LABELS_FILE).write_text(lines, "utf-8")
    (work / AGREEMENT_FILE).write_text(
        json.dumps(asdict(found), indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    metrics = {
        "items": float(found.items),
        "judgements": float(len(judgements)),
        "annotators": float(len({one.annotator for one in judgements})),
        "disagreed": float(len(found.disagreed)),
    }
    manifest = Manifest(
        name=NAME,
        kind=KIND,
        fingerprint=print_,
        code_version=_VERSION,
        config=config,
        metrics=metrics | ({} if found.alpha is None else {"krippendorff_alpha": found.alpha}),
        created_at=now(),
        duration_s=time.monotonic() - began,
        made_with=made_with(),
    )
    return store.commit(work, manifest)
