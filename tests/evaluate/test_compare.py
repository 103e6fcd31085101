"""The comparison of variants: one row each, in the file's order, with figures from their artifacts."""

import json

import pytest

from platen.core.config import Section
from platen.core.stage import StageContext
from platen.evaluate.compare import compare
from tests.evaluate.conftest import Said, artifact

MEASURED = {
    "feedforward": {"loss": 4.0, "bits_per_byte": 3.5, "parameters": 1000.0, "tokens_per_second": 9000.0},
    "llama": {"loss": 3.0, "bits_per_byte": 2.25, "parameters": 2000.0, "tokens_per_second": 4000.0},
}
TRAINED = {
    "feedforward": {"train_loss": 3.9, "tokens_per_second": 5000.0, "tokens": 64000.0, "seconds": 90.0},
    "llama": {},
}


class Variants(Section):
    variants: tuple[str, ...]


@pytest.fixture
def compared(tmp_path):
    inputs = {}
    for name in ("llama", "feedforward"):  # not the file's order
        folder = tmp_path / name
        (folder / "training").mkdir(parents=True)
        rows = [
            {"step": 1, "loss": 6.0, "learning_rate": 0.001, "tokens_per_second": 5.0},
            {"step": 1, "validation_loss": 5.0},
            {"step": 2, "validation_loss": 4.0},
        ]
        (folder / "training" / "history.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        inputs[f"train@{name}"] = artifact(
            folder,
            f"train@{name}",
            "model",
            config={"model": {"architecture": name}},
            metrics=TRAINED[name],
        )
        inputs[f"evaluate@{name}"] = artifact(
            folder, f"evaluate@{name}", "evaluation", metrics=MEASURED[name]
        )
    out = tmp_path / "out"
    out.mkdir()
    ctx = StageContext(
        name="compare",
        fingerprint="c" * 16,
        config=Variants(variants=("feedforward", "llama")),
        inputs=inputs,
        out=out,
        project_dir=tmp_path,
        seed=0,
        progress=Said(),
    )
    return out, compare(ctx)


def test_one_row_a_variant_in_the_projects_order(compared):
    out, result = compared
    rows = json.loads((out / "comparison.json").read_text())["variants"]
    assert [row["name"] for row in rows] == ["feedforward", "llama"]
    assert rows[0] == {
        "name": "feedforward",
        "architecture": "feedforward",
        "parameters": 1000,
        "train_loss": 3.9,
        "loss": 4.0,
        "bits_per_byte": 3.5,
        "train_tokens_per_second": 5000.0,
        "tokens_per_second": 9000.0,
        "tokens_seen": 64000.0,
        "minutes": 1.5,
    }
    assert rows[1]["minutes"] is None
    assert result.metrics == {"bits_per_byte.feedforward": 3.5, "bits_per_byte.llama": 2.25}
    assert result.notes == {"best": "llama"}


def test_the_table_says_what_each_variant_buys(compared):
    out, _ = compared
    lines = (out / "comparison.md").read_text().splitlines()
    first, second = (next(line for line in lines if line.startswith(f"| {name}")) for name in MEASURED)
    assert "| 3.500 |  | 5,000 |" in first
    assert "| 2.250 | -1.250 | – |" in second


def test_the_plots_are_images(compared):
    out, _ = compared
    for name in ("comparison", "quality_by_size", "curves"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
