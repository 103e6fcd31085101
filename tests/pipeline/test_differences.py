"""What `platen status` says of a changed configuration."""

from __future__ import annotations

from typing import Any

import pytest

from platen.pipeline.differences import changes

LANGUAGE = {"block": "language", "keep": ["en"], "min_confidence": 0.5}
NEAR = {"block": "near_duplicates", "similarity": 0.5}
PII = {"block": "pii", "kinds": ["email", "phone"], "action": "mask", "regions": []}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"steps": 12, "decay": None}, {"steps": 13, "decay": 0.1}, ["decay: unset → 0.1", "steps: 12 → 13"]),
        ([LANGUAGE, PII], [LANGUAGE, PII | {"action": "drop"}], ["blocks.1.action: mask → drop"]),
        ([LANGUAGE, PII], [LANGUAGE, PII | {"regions": ["GB"]}], ["blocks.1.regions.0: unset → GB"]),
        (
            [LANGUAGE, PII],
            [NEAR, LANGUAGE, PII | {"kinds": ["phone"]}],
            [
                "blocks.0: unset → {'block': 'near_duplicates', 'similarity…",
                "blocks.2.kinds.0: email → unset",
            ],
        ),
        ([LANGUAGE, NEAR], [NEAR], ["blocks.0: {'block': 'language', 'keep': ['en'], 'm… → unset"]),
        (
            [PII],
            [{key: PII[key] for key in ("block", "kinds", "action")}],
            ["blocks.0: …ion': 'mask', 'regions': []} → …ion': 'mask'}"],
        ),
    ],
)
def test_only_what_differs_is_said(old: Any, new: Any, said: list[str]) -> None:
    if isinstance(old, list):
        old, new = {"blocks": old}, {"blocks": new}
    assert list(changes(old, new)) == said
    assert list(changes(old, old)) == []


def test_long_texts_are_shown_from_where_they_differ() -> None:
    old, new = "who goes there " * 10 + "now", "who goes there " * 10 + "then, and " * 10
    assert list(changes({"system": old}, {"system": new})) == [
        "system: … goes there now → … goes there then, and then, and then, an…"
    ]
